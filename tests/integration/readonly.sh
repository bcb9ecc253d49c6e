#!/bin/bash
# Runs a command as nobody, with no file system that can be written to. Needs root.
# readonly.sh FOLDER SHM COMMAND...
#   FOLDER  is seen at /srv, whoever may read the path to it
#   SHM     rw: shared memory stays writable, as in a container; ro: that neither
set -euo pipefail
folder=$1 shm=$2
shift 2
if [ -z "${IN_NAMESPACE:-}" ]; then
  IN_NAMESPACE=1 exec unshare --mount bash "$0" "$folder" "$shm" "$@"
fi
unset IN_NAMESPACE
mount --make-rprivate /
while read -r _ place kind _; do
  case $kind in
    proc | sysfs | cgroup | cgroup2 | devpts | mqueue) continue ;;
  esac
  if [ "$place" = /dev/shm ] && [ "$shm" = rw ]; then
    continue
  fi
  mount -o remount,bind,ro "$place"
done </proc/self/mounts
mount --bind "$folder" /srv
cd /
# Reading is allowed to nobody even where the interpreter is in somebody's home.
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
  --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search "$@"
