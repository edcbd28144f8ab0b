#!/usr/bin/env bash
# Boots a systemd of its own over a copy of this machine, for tests of what wants root, users and systemd. It is in namespaces of its own (mounts,
# processes, network, cgroups); what it changes lies in memory. All of it ends with our stdin, so that nothing outlives a test that was killed.
#
#   boot-systemd.sh try DIRECTORY REPOSITORY PACKAGES     ends with 0 where it is possible: does all but to start systemd
#   boot-systemd.sh boot DIRECTORY REPOSITORY PACKAGES    says `up PID` when systemd has started; PID is what `nsenter --target` wants
#
# DIRECTORY is an empty one, where things are mounted that nobody else sees. REPOSITORY is seen inside as /srv/signet; PACKAGES are the project's node_modules.
set -euo pipefail
umask 022

# As PID 1 of the new namespaces: the file system, then systemd in our place.
inside() {
  local outer_pid root=$directory/root name kept
  read -r outer_pid _ < /proc/self/stat           # this /proc is still that of outside
  ip link set lo up
  mount -t overlay overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" "$root"
  mount -t proc proc "$root/proc"
  mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  for name in dev run tmp; do mount -t tmpfs -o mode=755 tmpfs "$root/$name"; done
  chmod 1777 "$root/tmp"
  mkdir "$root/dev/pts" "$root/dev/shm"
  for name in null zero full random urandom tty; do
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
  done
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"

  mkdir -p "$root/srv/signet" "$root/srv/node_modules"
  mount --bind "$repository" "$root/srv/signet"
  mount --bind -o ro "$packages" "$root/srv/node_modules"
  # There is no network, and npm takes seven seconds of a processor to unpack what lies unpacked here: this one brings the same packages, by the same lockfile.
  rm -f "$root/usr/local/bin/npm"
  install -m 755 /dev/stdin "$root/usr/local/bin/npm" << 'END'
#!/usr/bin/env node
const { execFileSync } = require("node:child_process");
const { cpSync, existsSync, readFileSync, rmSync } = require("node:fs");
if (process.argv.slice(2).join(" ") !== "ci --omit=dev") throw new Error("This npm knows `npm ci --omit=dev` alone.");
rmSync("node_modules", { recursive: true, force: true });
for (const [name, { dev }] of Object.entries(JSON.parse(readFileSync("package-lock.json", "utf8")).packages))
  if (name !== "" && dev !== true && existsSync(`/srv/${name}`)) cpSync(`/srv/${name}`, name, { recursive: true });
execFileSync("chmod", ["--recursive", "a+rX", "node_modules"]); // which was unpacked here under another umask, perhaps
END

  # A Signet that this machine runs itself is not there, nor somebody of the reader's name.
  rm -rf "$root"/{opt,etc}/signet "$root"/var/lib/signet-* "$root"/etc/systemd/system/signet-* "$root/home/reader"
  sed -i -E '/^(signet-ca|signet-kms|reader):/d' "$root"/etc/{passwd,shadow,group,gshadow}

  # Of this machine's services none is started but the journal.
  rm -rf "$root"/{etc,usr/lib,run}/systemd/system/*.wants "$root"/usr/lib/systemd/system-generators "$root"/etc/systemd/system-generators "$root"/etc/fstab
  kept=$root/etc/systemd/system
  mkdir -p "$kept/sysinit.target.wants" "$kept/multi-user.target.wants" "$root/etc/systemd/journald.conf.d"
  for name in systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do ln -s "/usr/lib/systemd/system/$name" "$kept/sysinit.target.wants/$name"; done
  printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\n' > "$root/etc/systemd/journald.conf.d/memory.conf"
  touch "$root/booted"
  mount --bind "$directory/booted" "$root/booted"
  printf '[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo up %s > /booted"\n' "$outer_pid" > "$kept/booted.service"
  ln -s ../booted.service "$kept/multi-user.target.wants/booted.service"
  echo localhost > "$root/etc/hostname"
  printf '127.0.0.1 localhost\n::1 localhost\n' > "$root/etc/hosts"

  # A dozen starts would compile the same code anew each time: here, what was compiled is kept.
  mkdir -m 1777 "$root/var/cache/compiled"
  mkdir "$kept/signet-.service.d"
  printf '[Service]\nEnvironment=NODE_COMPILE_CACHE=/var/cache/compiled\nReadWritePaths=/var/cache/compiled\n' > "$kept/signet-.service.d/compiled.conf"
  echo 'Defaults env_keep += "NODE_COMPILE_CACHE"' > "$root/etc/sudoers.d/compiled"

  # Somebody who may use sudo, as the README's reader.
  useradd --root "$root" --create-home --key HOME_MODE=0700 --shell /bin/bash reader
  echo 'reader ALL=(ALL:ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/reader"

  if [ "$mode" = try ]; then
    # The units see no home directories.
    for name in home root; do mount -t tmpfs tmpfs "$root/$name"; done
    chroot --userspec=reader "$root" node --eval 'if (Number.parseInt(process.versions.node) < 20) process.exit(1)' || { echo "Node 20 or later is not there for everybody" >&2; exit 1; }
    exit
  fi
  mkdir -p "$root/outside"
  cd "$root"
  pivot_root . outside
  umount --lazy /outside
  mount --make-rshared /                          # systemd leaves this to a container's maker, and needs it for credentials
  export container=signet-test
  exec /lib/systemd/systemd --unit=multi-user.target < /dev/null
}

# In a mount namespace of its own already: a control group, from which PID 1 believes that there is no other.
outside() {
  local own stale child input booted watch status=0
  mount -t tmpfs -o mode=700 tmpfs "$directory"
  mkdir "$directory"/{upper,work,root,groups}
  mkfifo "$directory/booted"
  mount -t cgroup2 cgroup2 "$directory/groups"
  own=$(sed -n 's/^0:://p' /proc/self/cgroup)
  # What is left of one that was killed: nobody else takes it away.
  for stale in "$directory/groups$own"/signet-test-*; do [ -d "/proc/${stale##*-}" ] || remove "$stale" || true; done
  group=$directory/groups$own/signet-test-$$
  trap finish EXIT
  trap 'exit 1' HUP INT TERM
  mkdir "$group"
  exec {input}<&0 {booted}<>"$directory/booted"
  (echo "$BASHPID" > "$group/cgroup.procs"; exec setpriv --pdeathsig KILL unshare --mount --pid --net --ipc --uts --cgroup --fork --kill-child bash "$0" inside "$mode" "$directory" "$repository" "$packages") &
  child=$!
  setpriv --pdeathsig KILL head --lines=1 <&"$booted" &
  watch=("$child")
  if [ "$mode" = boot ]; then
    setpriv --pdeathsig KILL cat <&"$input" > /dev/null &
    watch+=($!)
  fi
  wait -n "${watch[@]}" || status=$?
  exit "$status"
}

# Ends what runs, and takes the control group away: the kernel keeps it, whoever made it.
finish() {
  local tries
  kill -KILL $(jobs -rp) || true
  wait || true
  # Its processes are gone a moment after its PID 1.
  for tries in {1..200}; do
    [ -d "$group" ] || break
    remove "$group" || sleep 0.05
  done
} 2> /dev/null

remove() {
  find "$1" -depth -type d -exec rmdir {} + 2> /dev/null
}

case $1 in
  try | boot) exec unshare --mount bash "$0" outside "$@" ;;
  outside | inside)
    what=$1
    shift
    mode=$1 directory=$2 repository=$3 packages=$4
    "$what"
    ;;
esac
