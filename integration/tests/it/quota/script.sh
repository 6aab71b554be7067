# Runs in the virtual machine of machine.rs, by busybox. Says what is right and what is wrong, a line each.

image=example.com/small:1
overlay_first=1000000000

say() { # whether, name, detail
    if [ "$1" = yes ]; then echo "right: $kind$snapshotter: $2"; else echo "wrong: $kind$snapshotter: $2: $3"; fi
}
is() { # name, expected, found
    if [ "$2" = "$3" ]; then say yes "$1"; else say no "$1" "expected $2, found $3"; fi
}
within() { # name, least, most, found
    if [ "$4" -ge "$2" ] 2>/dev/null && [ "$4" -le "$3" ]; then say yes "$1"; else say no "$1" "expected $2 to $3, found $4"; fi
}

capstan() { /work/capstan --address unix:///disk/socket "$@"; }

start() {
    # It goes on where the containers are.
    setsid /work/capstand --config /dev/null --root /disk/root --state /disk/state --address unix:///disk/socket \
        > /log 2>&1 < /dev/null &
    daemon=$!
    for _ in $(seq 300); do
        capstan version > /dev/null 2>&1 && return
        sleep 0.2
    done
    say no "the daemon starts" "$(cat /log)"
}
stop() { # signal
    kill "-$1" $daemon
    wait $daemon 2> /dev/null
}

# How many KiB a container's own files take in the end, of 20 MiB that it wants.
fill() {
    capstan tasks exec "$1" sh -c 'dd if=/dev/zero of=/fill bs=64k count=320 2>/dev/null; stat -c %s /fill; rm /fill' \
        | { read -r bytes; echo $((bytes / 1024)); }
}
up() { # id, flags
    id=$1
    shift
    capstan run -d --name "$id" --snapshotter $snapshotter "$@" $image sleep 10000 > /dev/null
}
down() {
    for id in "$@"; do
        capstan tasks delete --force "$id" > /dev/null
        capstan containers rm "$id" > /dev/null
    done
}
limit() { capstan containers inspect limited | grep storageBytes | tr -dc 0-9; }
# Projects with files or a limit, other than the one of all that have none.
projects() { repquota -P -n -v -O csv /disk | grep -v ',0,0,0,,0,0,0,$' | grep '^#' | grep -v '^#0,' | tr '\n' ' '; }
nothing_is_left() {
    # xfs frees what a removed file took a little later.
    for _ in $(seq 50); do
        sync
        [ -z "$(projects)" ] && break
        sleep 0.2
    done
    is "nothing is left" "/" "$(projects)/$(ls /disk/root/snapshotter.$snapshotter/limits)"
}

the_whole() {
    up limited --storage-opt size=8m
    within "the limit holds" 7000 8192 "$(fill limited)"
    capstan tasks exec limited sh -c 'dd if=/dev/zero of=/fill bs=1k count=6000; echo more >> /big' > /dev/null 2>&1
    is "a copied file counts" 1 $?
    capstan tasks exec limited rm -f /fill
    stop KILL
    start
    within "it holds after a restart" 7000 8192 "$(fill limited)"
    capstan containers update limited --storage-opt size=12m > /dev/null
    within "it can be changed" 11000 12288 "$(fill limited)"
    if [ $snapshotter = overlay ] && [ "$kind" = "ext4 " ]; then
        is "the record has it" $((12 << 20)) "$(limit)"
        capstan containers update limited --storage-opt size=none > /dev/null
        is "it can end" "20480 0" "$(fill limited) $(limit)"
        up free
        within "others are not limited" 20480 20480 "$(fill free)"
        down free
    fi
    down limited
    nothing_is_left
    a_commit
}

a_commit() {
    capstan snapshots --snapshotter $snapshotter prepare --label capstan/size=1m key > /dev/null
    before=$(projects)
    capstan snapshots --snapshotter $snapshotter commit done key
    after=$(projects)
    case "$before/$after" in
        *,1024,*/*,1024,*) say no "a commit ends it" "$before/$after" ;;
        *,1024,*/*) say yes "a commit ends it" ;;
        *) say no "a commit ends it" "$before/$after" ;;
    esac
    capstan snapshots --snapshotter $snapshotter rm done > /dev/null
}

somebody_else() {
    capstan snapshots prepare probe > /dev/null
    last=$(ls /disk/root/snapshotter.overlay/snapshots | sort -n | tail -n 1)
    capstan snapshots rm probe > /dev/null
    theirs=$((overlay_first + last + 1))
    setquota -P $theirs 0 5000 0 0 /disk
    said=$(up limited --storage-opt size=8m 2>&1)
    case "$said/$(projects)" in
        *FailedPrecondition*$theirs*first_project*/*5000*) say yes "a project of somebody else is left alone" ;;
        *) say no "a project of somebody else is left alone" "$said/$(projects)" ;;
    esac
    setquota -P $theirs 0 0 0 0 /disk
}

# As if the daemon had ended before it wrote the record.
a_crash() {
    stop KILL
    mkdir -p /disk/root/snapshotter.overlay/snapshots/900/fs /disk/root/snapshotter.overlay/limits
    echo $((overlay_first + 900)) > /disk/root/snapshotter.overlay/limits/900
    chattr -p $((overlay_first + 900)) +P /disk/root/snapshotter.overlay/snapshots/900/fs
    setquota -P $((overlay_first + 900)) 0 1000 0 0 /disk
    start
    for _ in $(seq 100); do
        [ -e /disk/root/snapshotter.overlay/limits/900 ] || break
        sleep 0.1
    done
    sync
    is "a crash leaves nothing" "/" "$(projects)/$(ls /disk/root/snapshotter.overlay/snapshots | grep 900)"
}

a_user_namespace() {
    mkdir -p /host
    up mapped --storage-opt size=8m --userns 0:100000:65536 --volume /lib:/lib:ro --volume /lib64:/lib64:ro \
        --volume /usr:/host:ro
    capstan tasks exec mapped sh -c 'touch /mine && /host/bin/chattr -p 0 /mine' > /said 2>&1
    first=$?
    capstan tasks exec mapped sh -c 'mkdir /dir && /host/bin/chattr -P /dir' >> /said 2>&1
    is "a user namespace cannot leave its project" "1 1 2" "$first $? $(grep -c 'Operation not permitted\|Invalid argument' /said)"
    cat /said
    down mapped
}

the_short() { # size in MiB, least in KiB
    up limited --storage-opt size=$1m
    within "the limit holds" $2 $(($1 * 1024)) "$(fill limited)"
    down limited
    nothing_is_left
}

for module in loop quota_v2 overlay xfs erofs; do modprobe $module || echo "wrong: no module $module"; done
mkdir -p /disk /images
mount -t tmpfs images /images
truncate -s 400M /images/ext4 /images/xfs

kind=ext4
mkfs.ext4 -q -O quota,project -E quotatype=prjquota /images/ext4
mount -o loop,prjquota /images/ext4 /disk
kind="ext4 "
snapshotter=overlay
start
capstan images import --no-unpack /work/image.tar > /dev/null
the_whole
somebody_else
a_crash
a_user_namespace
snapshotter=native
the_short 12 4000
snapshotter=erofs
the_short 8 7000
a_commit
snapshotter=overlay
up limited --storage-opt size=8m
capstan tasks delete --force limited > /dev/null
stop TERM
umount /disk
mount -o loop /images/ext4 /disk
start
kind=ext4
snapshotter=
said=$(capstan tasks create limited 2>&1)
is "without quotas a limited container does not start" 12 "$?"
echo "$said"
snapshotter=overlay
up free
found=$?
snapshotter=
is "without quotas others do" 0 $found
snapshotter=overlay
down free
stop TERM
umount /disk

mkfs.xfs -q /images/xfs
mount -o loop,pquota /images/xfs /disk
kind="xfs "
start
capstan images import --no-unpack /work/image.tar > /dev/null
the_whole
snapshotter=native
the_short 12 4000
stop TERM
