//! What a runtime says when it fails, in our classes.
//!
//! The shim passes on the last line of the runtime's log: JSON of runc's form, with the runtime's own
//! words. Each of runc, crun and libcontainer has its own words for the two things that people get
//! wrong most, a command that is not there and one that cannot be run.

use capstan_sdk::{Class, Error};

/// The class and the words of a runtime's failure. Errors of the shim itself stay as they are.
pub(crate) fn classify(error: Error, command: &str) -> Error {
    let Some((verb, logged)) = split(error.message()) else { return error };
    let words = words(logged);
    let says = |any: &[&str]| any.iter().any(|part| words.contains(part));
    let is_missing = says(&[
        "executable file not found",
        "executable file `",
        "not found in $PATH",
        "no such file or directory\": unknown",
    ]) || (says(&["exec:", "exec "])
        && says(&["no such file or directory", "No such file"]));
    if is_missing {
        return Error::not_found(format!(
            "command {command:?} is not in the container; check its name and the PATH ({words})"
        ));
    }
    if says(&["permission denied", "Permission denied"]) && says(&["exec", "command"]) {
        return Error::denied(format!(
            "command {command:?} is not executable in the container; check its mode ({words})"
        ));
    }
    let class = match error.class() {
        Class::Internal if says(&["no space left", "No space left"]) => Class::ResourceExhausted,
        class => class,
    };
    Error::new(class, format!("runtime {verb}: {words}"))
}

/// `runtime <verb>: <last line of the log>`.
fn split(message: &str) -> Option<(&str, &str)> {
    message.strip_prefix("runtime ")?.split_once(": ")
}

/// The message of a log line; a line that is not JSON is the message.
fn words(logged: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(logged).ok();
    let message = parsed.as_ref().and_then(|line| line["msg"].as_str());
    message.unwrap_or(logged).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(logged: &str, class: Class, part: &str) {
        let error = classify(Error::internal(format!("runtime create: {logged}")), "nope");
        assert_eq!(error.class(), class, "{error}");
        assert!(error.message().contains(part), "{error}");
    }

    #[test]
    fn every_runtimes_words_are_understood() {
        check(
            r#"{"level":"error","msg":"runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH","time":"t"}"#,
            Class::NotFound,
            "command \"nope\" is not in the container",
        );
        check(
            r#"{"level":"error","msg":"runc create failed: unable to start container process: exec: \"/nope\": stat /nope: no such file or directory","time":"t"}"#,
            Class::NotFound,
            "command",
        );
        check(
            r#"{"msg":"executable file `nope` not found in $PATH: No such file or directory","level":"error","time":"t"}"#,
            Class::NotFound,
            "command",
        );
        check(
            r#"{"level":"error","msg":"failed to create container: command \"nope\": executable file not found in the container"}"#,
            Class::NotFound,
            "command",
        );
        check(
            r#"{"level":"error","msg":"runc create failed: unable to start container process: exec: \"/etc\": permission denied: unknown","time":"t"}"#,
            Class::PermissionDenied,
            "not executable",
        );
        check(
            r#"{"msg":"open executable: Permission denied: OCI permission denied","level":"error","time":"t"}"#,
            Class::PermissionDenied,
            "not executable",
        );
        check(
            r#"{"level":"error","msg":"seccomp: no"}"#,
            Class::Internal,
            "runtime create: seccomp: no",
        );
        check("plain words", Class::Internal, "plain words");
        check(r#"{"msg":"write: no space left on device"}"#, Class::ResourceExhausted, "no space");
    }

    #[test]
    fn the_shims_own_errors_are_left_alone() {
        let own = Error::not_found("mount /x on y: not there");
        assert_eq!(classify(own.clone(), "nope"), own);
    }
}
