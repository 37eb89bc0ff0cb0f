#!/bin/sh
# A one-node SLURM of its own on this machine, as root: slurm.sh start|stop|fail|restore FOLDER
# FOLDER holds everything (keys, sockets, state, logs); export SLURM_CONF=FOLDER/slurm.conf to use it.
set -eu
action=$1 folder=$(realpath -m "$2")
export SLURM_CONF="$folder/slurm.conf"

configure() {
    mkdir -p "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 2>/dev/null
    chmod 400 "$folder/munge.key"
    cat > "$SLURM_CONF" <<EOF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
SlurmdTimeout=10
KillWait=60
ReturnToService=2
MailProg=/bin/true
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES State=UP
EOF
}

end() { # PIDFILE SIGNAL: end one daemon, and wait until it is gone
    [ -s "$1" ] && pid=$(cat "$1") && kill "-$2" "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
    kill -KILL "$pid"
}

ours() { # processes that serve a job of this cluster, by the environment they inherited; NAME: of that name alone
    for file in $(grep -lszF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ); do
        name=$(cat "${file%environ}comm" 2>/dev/null) || continue
        [ -z "$1" ] || [ "$name" = "$1" ] || continue
        [ "$name" = slurmstepd ] || grep -qsz "^SLURM_JOB_ID=" "$file" || continue
        basename "${file%/environ}"
    done
}

fail() { # the node's power goes: its daemon, its job steps, then all that these started
    end "$folder/slurmd.pid" KILL
    for name in slurmstepd ""; do
        found=$(ours "$name")
        [ -z "$found" ] || kill -KILL $found 2>/dev/null || true
    done
}

case "$action" in
start)
    configure
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    slurmctld -c
    slurmd
    for _ in $(seq 60); do sinfo -h -o %T 2>/dev/null | grep -q idle && exit 0; sleep 0.5; done
    echo "SLURM does not come up; see $folder/*.log" >&2
    exit 1 ;;
fail) fail ;;
restore) slurmd ;;
stop)
    scancel --full --user=root 2>/dev/null || true
    fail
    end "$folder/slurmctld.pid" TERM
    end "$folder/munged.pid" TERM ;;
*) echo "usage: slurm.sh start|stop|fail|restore FOLDER" >&2; exit 2 ;;
esac
