//! A plugin of another compiler and other dependencies: nothing but C and Cap'n Proto is between it and the daemon.
