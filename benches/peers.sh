#!/usr/bin/env bash
# Times specrouter beside two other simulators on the same work, in turn (A B A B ...), on one core.
#
#   benches/peers.sh [AZURE_CSV]     RUNS=5 and CORE=0 can be set.
#
# What is not installed is left out. peers.md says where the peers come from and what differs. AZURE_CSV is
# AzureLLMInferenceTrace_conv.csv of github.com/Azure/AzurePublicDataset; without it DynoSim is left out.
set -euo pipefail
export LC_ALL=C # Decimal points.

here=$(cd "$(dirname "$0")" && pwd)
runs=${RUNS:-5}
azure=${1:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

have() { command -v "$1" >/dev/null; }
pin=()
if have taskset; then pin=(taskset -c "${CORE:-0}"); fi

# Seconds of wall time of a command, its output in $scratch/log.
wall() {
    local start=$EPOCHREALTIME
    "${pin[@]}" "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
    awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.4f\n", b - a }'
}

# As `wall`, but the time that DynoSim itself reports: without starting Python and reading the trace.
own_wall() {
    wall "$@" >/dev/null
    awk '/Wall Time/ { printf "%.4f\n", $NF / 1000 }' "$scratch/log"
}

median() { sort -g | awk '{ v[NR] = $1 } END { printf "%.3f", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
range() { sort -g | awk 'NR == 1 { low = $1 } { high = $1 } END { printf "%.3f to %.3f", low, high }'; }

# Rounds or output tokens of the arm in a summary.json.
field() { awk -v key="\"$2\":" '$1 == key { gsub(/,/, "", $2); print $2; exit }' "$1/summary.json"; }

ours() { wall specrouter run "$@" --jobs 1 --out "$scratch/out" -q; }

# pair NAME REQUESTS TIMER "OUR ARGUMENTS" PEER-COMMAND...
pair() {
    local name=$1 requests=$2 timer=$3 mine
    read -ra mine <<<"$4"
    shift 4
    ours "${mine[@]}" >/dev/null # Warm: files in memory.
    "$timer" "$@" >/dev/null
    : >"$scratch/a"; : >"$scratch/b"
    for _ in $(seq "$runs"); do
        ours "${mine[@]}" >>"$scratch/a"
        "$timer" "$@" >>"$scratch/b"
    done
    local a b ratio
    a=$(median <"$scratch/a")
    b=$(median <"$scratch/b")
    ratio=$(paste "$scratch/b" "$scratch/a" | awk '{ print $1 / $2 }' | median)
    awk -v name="$name" -v n="$requests" -v a="$a" -v b="$b" -v ratio="$ratio" -v ra="$(range <"$scratch/a")" \
        -v rb="$(range <"$scratch/b")" -v rounds="$(field "$scratch/out" rounds)" -v tokens="$(field "$scratch/out" output_tokens)" 'BEGIN {
        printf "| %s | %.3f s (%s) | %.0f | %.1f | %.0f | %.3f s (%s) | %.0f | %.2f |\n",
            name, a, ra, n / a, tokens / a / 1e6, a / rounds * 1e9, b, rb, n / b, ratio }'
}

have specrouter || { echo "specrouter is not on the PATH: cargo install --path ." >&2; exit 1; }
echo "$(date -u +%F), $(nproc) cores, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo 2>/dev/null || uname -m), pinned: ${pin[*]:-no}"
echo
echo "| work, against | ours, wall | requests/s | M output tokens/s | ns a round | peer, wall | requests/s | peer over ours |"
echo "|---|--:|--:|--:|--:|--:|--:|--:|"
for regime in large-batch small-batch; do
    if have inference-lab; then
        pair "$regime, inference-lab, one engine of 16 GPUs" 20000 wall "$here/peers/$regime.yaml" \
            inference-lab -q --no-color -c "$here/peers/inference-lab/$regime.toml"
    fi
    if have inference-lab-replicas; then
        pair "$regime, inference-lab's library, 16 engines" 20000 wall "$here/peers/$regime.yaml" \
            inference-lab-replicas "$here/peers/inference-lab/$regime.toml" 16
    fi
done
if [[ -n $azure ]] && have python3 && python3 -c 'import dynamo.replay' 2>/dev/null; then
    # Its own trace format: every prompt in blocks of its own, since prefix sharing is not simulated here.
    python3 - "$azure" "$scratch/azure.jsonl" <<'PYTHON'
import csv, datetime, itertools, json, sys
rows = itertools.islice(csv.DictReader(open(sys.argv[1])), 10_000)
start, block = None, 0
with open(sys.argv[2], "w") as out:
    for row in rows:
        whole, fraction = row["TIMESTAMP"].strip().split(".")
        at = datetime.datetime.fromisoformat(whole).timestamp() * 1e3 + int(fraction) / 10 ** (len(fraction) - 3)
        start = at if start is None else start
        prompt = int(row["ContextTokens"])
        blocks = -(-prompt // 512)
        ids = list(range(block, block + blocks))
        block += blocks
        line = {"timestamp": round(at - start, 3), "input_length": prompt, "output_length": int(row["GeneratedTokens"]), "hash_ids": ids}
        out.write(json.dumps(line) + "\n")
PYTHON
    replay=(python3 -m dynamo.replay "$scratch/azure.jsonl" --num-workers 1 --replay-mode offline --report-json "$scratch/replay.json")
    for caching in false true; do
        pair "azure-10k, DynoSim, prefix caching $caching" 10000 own_wall "$here/peers/azure-10k.yaml --set workload.file=$azure" \
            "${replay[@]}" --extra-engine-args "{\"aic_nextn\":5,\"enable_prefix_caching\":$caching}"
    done
fi
