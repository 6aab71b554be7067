#!/usr/bin/env bash
# Builds one of the test images and pushes it to a registry on loopback.
#   usage: make-images.sh WORKDIR REGISTRY busybox|minbase|big
# Needs: busybox-static umoci skopeo mmdebstrap attr python3; root.
set -euo pipefail
W=${1:?workdir}; REG=${2:?registry}; IMAGE=${3:?image}
export SOURCE_DATE_EPOCH=1700000000
# Thousands of small files: in memory, the disk of a machine may be slow at those.
T=$(mktemp -d); mount -t tmpfs -o size=4g tmpfs "$T"
trap 'cd /; umount "$T"; rmdir "$T"' EXIT
cd "$T"

# One more layer: what was changed in ./layout.bundle/rootfs since the last.
commit() { umoci repack --refresh-bundle --image layout:latest layout.bundle >/dev/null; }
umoci init --layout layout
umoci new --image layout:latest
umoci unpack --image layout:latest layout.bundle >/dev/null
R=layout.bundle/rootfs

busybox_tree() {
  mkdir -p "$R"/{bin,sbin,etc,proc,sys,dev,tmp,root,run,var,usr/bin,usr/sbin}
  cp /bin/busybox "$R/bin/busybox"
  /bin/busybox --list | grep -vx busybox | while read -r a; do ln -sf busybox "$R/bin/$a"; done
  echo 'root:x:0:0:root:/root:/bin/sh' > "$R/etc/passwd"; echo 'root:x:0:' > "$R/etc/group"
  chmod 1777 "$R/tmp"
}
take() { # SRC DST MAXMIB: copies files of SRC in name order until MAXMIB is reached
  mkdir -p "$2"
  ( cd "$1" && find . -xdev -type f -size -4096k -printf '%s %P\0' 2>/dev/null | LC_ALL=C sort -z -k2 |
    awk -v RS='\0' -v ORS='\0' -v max=$(( $3 * 1048576 )) '{s+=$1; if (s<=max) {sub(/^[0-9]+ /,""); print}}' ) > list0
  tar -C "$1" --null -T list0 -cf - | tar -C "$2" -xf -
}
small() { # DIR N: N files of 0..4 KiB in 100-file directories
  python3 - "$1" "$2" <<'PY'
import sys, os, random
d, n = sys.argv[1], int(sys.argv[2]); r = random.Random(n)
for i in range(n):
    sub = f"{d}/d{i - i % 100:05d}"
    os.makedirs(sub, exist_ok=True)
    with open(f"{sub}/f{i:05d}", "wb") as f: f.write(r.randbytes(r.randrange(0, 4096)))
PY
}

case $IMAGE in
busybox)
  busybox_tree; commit
  umoci config --image layout:latest --config.cmd /bin/sh --config.env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
  ;;
minbase)
  # The suite and mirrors that this machine uses itself.
  . /etc/os-release
  [ -s "$W/minbase.tar" ] || { mmdebstrap --quiet --mode=root --variant=minbase "$VERSION_CODENAME" minbase.tar && mv minbase.tar "$W/minbase.tar"; }
  tar -C "$R" --numeric-owner -xf "$W/minbase.tar" --exclude='./dev/*'; commit
  umoci config --image layout:latest --config.cmd /bin/bash --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  ;;
big) # Content comes from the host's /usr; sizes are bounded, so it is about the same everywhere.
  busybox_tree;                                                     commit   # 1 base
  take /usr/share/doc      "$R/opt/l2/doc"   60;                    commit   # 2 tiny files
  take /usr/lib            "$R/opt/l3/lib"   110;                   commit   # 3 libraries
  small "$R/opt/l4" 8000;                                           commit   # 4 random files
  take /usr/share/locale   "$R/opt/l5/loc"   60
  take /usr/share/zoneinfo "$R/opt/l5/tz"    10;                    commit   # 5
  find "$R/opt/l2/doc" -name '*.gz' -delete
  rm -rf "$R/opt/l4/d00000" "$R/opt/l4/d00100";                     commit   # 6 whiteouts only
  rm -rf "$R/opt/l3/lib"; take /usr/bin "$R/opt/l3/lib/replaced-bin" 90; commit # 7 directory replaced
  small "$R/opt/l8" 6000
  ln -s ../l8 "$R/opt/l4/link"; ln "$R/opt/l8/d00000/f00000" "$R/opt/l8/hard"; chmod 4755 "$R/opt/l8/d00000/f00001"; chown 1000:1000 "$R/opt/l8/d00000/f00002"
  setfattr -n user.bench -v 1 "$R/opt/l8/d00000/f00003" 2>/dev/null || true; commit # 8 links, modes, owners, xattr
  take /usr/share "$R/opt/l9/share" 110;                            commit   # 9
  find "$R/opt/l9/share" -type f -name '*[05].*' -print0 | xargs -0r chmod 0640
  dd if=/dev/urandom of="$R/opt/blob" bs=1M count=48 status=none;   commit   # 10 modes, and one file that does not compress
  umoci config --image layout:latest --config.cmd /bin/sh --config.env PATH=/bin
  ;;
*) echo "no image $IMAGE" >&2; exit 2 ;;
esac
umoci gc --layout layout >/dev/null
skopeo copy -q --dest-tls-verify=false oci:layout:latest "docker://$REG/$IMAGE:latest"
