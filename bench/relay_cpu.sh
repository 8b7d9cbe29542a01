#!/usr/bin/env bash
# Question: how much CPU does posternd spend on one relayed message, durability synced, event log, metrics and all
# timeouts on? smtp-source → posternd → smtp-sink over loopback, everything on this machine.
#
#   bench/relay_cpu.sh [POSTERND [SHARDS [MESSAGES [BYTES [SESSIONS]]]]]
#
# Defaults: build/release/posternd 1 20000 1024 20. Needs Postfix's smtp-source; the next hop is smtp-sink, or with
# SINK=own in the environment postern-bench's, which takes mail faster than posternd sends it. Prints the surroundings,
# then CPU of all of posternd's threads (user and system, start-up left out) per message, and rates: `accepted` up to
# the last 250, `drained` until the last delivery. Run it on a quiet machine: what else runs costs caches.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$(realpath "${1:-$root/build/release/posternd}")
shards=${2:-1} messages=${3:-20000} bytes=${4:-1024} sessions=${5:-20}
warm=500
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait 2>/dev/null; rm -rf "$folder"' EXIT

cat >"$folder/postern.toml" <<TOML
hostname = "relay.example.test"
data_dir = "$folder/data"
shards = $shards
[[listener]]
address = "127.0.0.1:2527"
[limits]
connections_per_peer = 1000
[spool]
min_free = "64MiB"
[[route]]
match = "*"
via = "smtp:[127.0.0.1]:2598"
[admin]
listen = "127.0.0.1:8027"
TOML
if [ "${SINK:-}" = own ]; then
  "$(dirname "$bin")/postern-bench" sink 127.0.0.1:2598 >/dev/null 2>&1 &
else
  smtp-sink -u nobody -c 127.0.0.1:2598 1000 >/dev/null 2>&1 &
fi
"$bin" --config "$folder/postern.toml" 2>"$folder/log" &
daemon=$!
for _ in $(seq 100); do grep -q 'is ready' "$folder/log" && break; sleep 0.1; done
grep -q 'is ready' "$folder/log" || { cat "$folder/log"; exit 1; }

metric() { curl -s http://127.0.0.1:8027/metrics | awk -v name="$1" '$1 == name { print $2 }'; }
cpu_ms() { awk -v hz="$(getconf CLK_TCK)" '{ print int(($14 + $15) * 1000 / hz) }' "/proc/$daemon/stat"; }
source_mail() { smtp-source -d -s "$sessions" -m "$1" -l "$bytes" -f sender@client.test -t user@hop.test 127.0.0.1:2527; }
drained() { [ "$(metric 'postern_recipients_total{outcome="relayed"}' | cut -d. -f1)" -ge "$1" ]; }

source_mail $warm
for _ in $(seq 200); do drained $warm && break; sleep 0.1; done
calls=$(metric postern_system_calls_total) batches=$(metric postern_spool_batches_total)
before=$(cpu_ms) begin=$(date +%s%N)
source_mail "$messages"
accepted=$(date +%s%N)
for _ in $(seq 600); do drained $((messages + warm)) && break; sleep 0.05; done
end=$(date +%s%N) after=$(cpu_ms)
drained $((messages + warm)) || { echo "not all messages were relayed" >&2; exit 1; }

echo "surroundings: $(uname -r), $(nproc) CPUs ($(sed -n 's/model name\s*: //p' /proc/cpuinfo | head -n 1)), load $(cut -d' ' -f1 /proc/loadavg), spool on $(stat -f -c %T "$folder"), $("$bin" --version)"
awk -v m="$messages" -v b="$bytes" -v s="$sessions" -v n="$shards" -v cpu=$((after - before)) -v t1=$((accepted - begin)) -v t2=$((end - begin)) \
  -v calls="$(metric postern_system_calls_total)" -v calls0="$calls" -v batches="$(metric postern_spool_batches_total)" -v batches0="$batches" 'BEGIN {
  printf "%d messages of %d bytes, %d sessions, %d shard(s): %.0f µs CPU a message; %.0f/s accepted, %.0f/s drained; %.2f ring calls and %.3f durable batches a message\n",
    m, b, s, n, cpu * 1000 / m, m / (t1 / 1e9), m / (t2 / 1e9), (calls - calls0) / m, (batches - batches0) / m }'
