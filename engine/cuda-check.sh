#!/usr/bin/env bash
# Checks the engine on a machine with a GPU and prints one table.
#
#   cuda-check.sh FOLDER [STEP...]
#
# FOLDER holds all that must travel, under 60 MB, and nothing else is read:
#
#   specrouter     cargo build --release --features cuda (the release profile strips it); or packed, as
#                  specrouter.xz or specrouter.gz
#   models/        the shipped family
#   family.jsonl   prompts for the family, e.g. scenarios/prompts/quickstart.jsonl
#   dummy.jsonl    prompts for the dummies; of these only the lengths matter
#
# Steps, all by default, each under ten minutes; what earlier calls found is kept and stands in the table:
#
#   selfcheck        exactness, distribution and flip rate
#   profile-family   pass times of the family
#   profile-dummy    pass times of random weights in the shapes of 68M, 1B and 8B models
#   record-family    the family under several policies, in bf16 and f32, and its texts beside the processor's
#   record-dummy     the dummies under several policies; random models do not agree, so only times count
#
# Environment: DEVICE (cuda:0; cpu tries the script itself), OUT (FOLDER/out), DUMMIES (catalog names, cheapest first).
# Exit: 0 all steps passed, 1 one failed, 2 there is nothing to run or to run it on.
set -u -o pipefail

steps_all=(selfcheck profile-family profile-dummy record-family record-dummy)

fail() { # MESSAGE...: what is missing, and what to do
    printf 'cuda-check: %s\n' "$@" >&2
    exit 2
}

[ $# -ge 1 ] || fail 'expected: cuda-check.sh FOLDER [STEP...]' "steps: ${steps_all[*]}"
folder=$(cd "$1" 2>/dev/null && pwd) || fail "$1: no such folder"
shift
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=("${steps_all[@]}")
for step in "${steps[@]}"; do
    case " ${steps_all[*]} " in *" $step "*) ;; *) fail "$step: no such step; there are: ${steps_all[*]}" ;; esac
done

device=${DEVICE:-cuda:0}
out=${OUT:-$folder/out}
read -r -a dummies <<<"${DUMMIES:-llama-68m llama-3.2-1b llama-3.1-8b}"
program=$folder/specrouter
mkdir -p "$out" || fail "$out: cannot be made"

# ---- what must be there ---------------------------------------------------------------------------------------------

for packer in xz gzip; do
    packed=$program.${packer/gzip/gz}
    if [ ! -f "$program" ] && [ -f "$packed" ]; then
        "$packer" -dc "$packed" >"$program.part" && mv "$program.part" "$program" || fail "$packed: cannot be unpacked"
    fi
done
[ -f "$program" ] || fail "$program: missing; build it with: cargo build --release --features cuda"
[ -x "$program" ] || chmod +x "$program"
for file in family.jsonl dummy.jsonl; do
    [ -s "$folder/$file" ] || fail "$folder/$file: missing; it is a file of prompts, one JSON object a line"
done

# The family, cheapest first: weights in order of their size.
family=()
while read -r weights; do
    family+=("$(basename "$(dirname "$weights")")")
done < <(ls -Sr "$folder"/models/*/model.safetensors 2>/dev/null)
[ ${#family[@]} -ge 2 ] || fail "$folder/models: expected at least two model folders with a model.safetensors, got ${#family[@]}"

gpu=none
if [ "$device" != cpu ]; then
    command -v nvidia-smi >/dev/null || fail 'no GPU: nvidia-smi is not found. This needs an NVIDIA driver for CUDA 13 (580 or later).'
    gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | sed -n "$((${device#cuda:} + 1))p")
    [ -n "$gpu" ] || fail "no GPU $device:" "$(nvidia-smi -L 2>&1)"
    driver=$(cut -d, -f2 <<<"$gpu" | tr -d ' ')
    [ "${driver%%.*}" -ge 580 ] 2>/dev/null ||
        echo "cuda-check: driver $driver; CUDA 13 wants 580 or later. If kernels fail to load, build with a toolkit as old as the driver." >&2
fi

# Libraries that the loader does not find: look where toolkits and PyTorch put them.
missing() { ldd "$program" 2>/dev/null | awk '/not found/ {print $1}'; }
if [ -n "$(missing)" ]; then
    for library in $(missing); do
        found=$(find /usr /opt /root /home /venv -maxdepth 9 -name "$library" -not -path '*/stubs/*' 2>/dev/null | head -1)
        [ -n "$found" ] && export LD_LIBRARY_PATH="$(dirname "$found")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    done
    left=$(missing)
    [ -z "$left" ] || fail "libraries are missing: $(tr '\n' ' ' <<<"$left")" \
        'libcuda.so.1 comes with the driver. libcublas.so.13, libcublasLt.so.13, libcurand.so.10 and libcudart.so.13 come' \
        'with a CUDA 13 toolkit, or: pip install nvidia-cublas nvidia-curand nvidia-cuda-runtime, then' \
        'LD_LIBRARY_PATH=.../site-packages/nvidia/cu13/lib. A CUDA 12 toolkit has other versions of them and does not do.'
fi
"$program" --version >/dev/null || fail "$program does not start"

# ---- running --------------------------------------------------------------------------------------------------------

failed=0

# row STEP WHAT MEASURE VALUE: a line of the table, kept in the step's file.
row() { printf '%s\t%s\t%s\t%s\n' "$@" >>"$out/$1.rows"; }

# try STEP NAME COMMAND...: stdout to OUT/NAME.txt, stderr to OUT/NAME.log. Runs in FOLDER, where models/ lies.
try() {
    local step=$1 name=$2 begin rc
    shift 2
    begin=$(date +%s)
    echo "cuda-check: $step: $*" >&2
    (cd "$folder" && "$@") >"$out/$name.txt" 2>"$out/$name.log"
    rc=$?
    if [ $rc -eq 0 ]; then
        row "$step" "$name" 'ran in' "$(($(date +%s) - begin)) s"
    else
        failed=1
        row "$step" "$name" FAILED "exit $rc: $({ grep -m1 '^error' "$out/$name.log" || tail -n 1 "$out/$name.log"; } | cut -c1-150)"
    fi
    return $rc
}

# Costs of passes relative to one token of one sequence, at the shortest context of the table.
costs() { # STEP CSV NOTE
    awk -F, -v OFS='\t' -v step="$1" -v note="$3" '
        NR == 1 { next }
        !($1 in least) { order[++models] = $1; least[$1] = $4 }
        $4 + 0 < least[$1] + 0 { least[$1] = $4 }
        { time[$1, $2, $3, $4] = $5 }
        END {
            for (m = 1; m <= models; m++) {
                name = order[m]; context = least[name]; one = time[name, 1, 1, context]
                if (one == "") continue
                print step, name note, "pass of 1 token", sprintf("%.3f ms", one * 1e3)
                for (n = 2; n <= 16; n *= 2) if ((name, 1, n, context) in time)
                    line = line sprintf("  %d: %.2f", n, time[name, 1, n, context] / one)
                print step, name note, "cost of n tokens of 1 row, in passes", substr(line, 3); line = ""
                for (n = 2; n <= 16; n *= 2) if ((name, n, n, context) in time)
                    line = line sprintf("  %d: %.2f", n, time[name, n, n, context] / one)
                print step, name note, "cost of n rows of 1 token, in passes", substr(line, 3); line = ""
            }
        }' "$2" >>"$out/$1.rows"
}

# What a recording measured, policy by policy.
measured() { # STEP NAME
    awk -v OFS='\t' -v step="$1" -v name="$2" '
        function flush() {
            if (policy != "") print step, name ": " policy, "TPOT mean, throughput, tokens a round",
                sprintf("%.3f ms  %.0f tokens/s  %.2f", value["tpot_mean"], value["output_tokens"], value["accepted_length"])
            policy = ""; split("", value)
        }
        function text() { sub(/^[^:]*: "?/, ""); sub(/"?,?$/, ""); return $0 }
        /^  "comparisons"/ { exit }
        /^      "policy":/ { flush(); policy = text(); next }
        /^          "metric":/ { metric = text(); next }
        /^          "mean":/ { value[metric] = text() }
        END { flush() }' "$out/$2/summary.json" >>"$out/$1.rows"
}

# Greedy texts of every policy of a recording beside a reference: as many lines "request token_ids" as texts.
texts() { sed -E 's/.*"request":([0-9]+).*"token_ids":\[([0-9,]*)\].*/\1 \2/' "$1" | sort -n; }
same() { # STEP NAME REFERENCE-FILE REFERENCE-WORDS
    local file policy
    for file in "$out/$2"/arms/*/seed-*/texts.jsonl; do
        policy=$(basename "$(dirname "$(dirname "$file")")")
        [ "$file" != "$3" ] || continue
        join <(texts "$3" | sort) <(texts "$file" | sort) | awk -v OFS='\t' -v step="$1" -v what="$2: $policy" -v words="$4" '
            { texts++; n = split($2, a, ","); m = split($3, b, ","); k = n < m ? n : m
              for (i = 1; i <= k && a[i] == b[i]; i++) tokens++
              if (i > k && n == m) equal++; else { first += i; differ++; tokens++ } }
            END { print step, what, "greedy texts equal to " words, sprintf("%d of %d; %d forks in %d tokens%s", equal, texts,
                differ, tokens, differ ? sprintf(", first at token %.0f on average", first / differ) : "") }' >>"$out/$1.rows"
    done
}

scenario() { # NAME POOL ENGINE PROMPTS LIMITS REQUESTS USERS POLICY...
    local file=$out/$1.yaml
    {
        echo "seed: 1"
        echo "pool: [$2]"
        echo "engine: {$3}"
        echo "limits: {$5}"
        echo "workload: {file: $4, requests: $6, arrivals: {closed_loop: {users: $7}}, max_tokens: 64}"
        echo "sampling: {temperature: 0}"
        echo "policies:"
        shift 7
        printf '  - %s\n' "$@"
        echo "seeds: 1"
    } >"$file"
    echo "$file"
}

# A two-level chain, and a three-level one where there are three models.
policies() { # MODEL...
    local first=$1 last=${!#}
    echo target_only
    echo "static: {chain: [$first, $last], windows: [3]}"
    if [ $# -ge 3 ]; then
        local before=$(($# - 1))
        echo "static: {chain: [$first, ${!before}, $last], windows: [2, 4]}"
    fi
    echo "specrouter: {scope: per_batch}"
}
join_names() { local IFS=,; echo "$*"; }

grid=(--rows 1,2,4,8,16 --new-tokens 1,2,3,4,6,8,12,16 --repeats 9)

for step in "${steps[@]}"; do
    : >"$out/$step.rows"
    case $step in
    selfcheck)
        try selfcheck selfcheck "$program" selfcheck --device "$device"
        while IFS= read -r line; do
            row selfcheck selfcheck '' "$line"
        done < <(grep -v '^[[:space:]]*$' "$out/selfcheck.txt")
        ;;
    profile-family)
        for dtype in bf16 f32; do
            try "$step" "family-$dtype" "$program" profile "${family[@]/#/models/}" --device "$device" --dtype "$dtype" \
                "${grid[@]}" --context-tokens 32,128,384 --out "$out/family-$dtype.csv" && costs "$step" "$out/family-$dtype.csv" ", $dtype"
        done
        ;;
    profile-dummy)
        try "$step" dummies "$program" profile "${dummies[@]}" --dummy --device "$device" \
            "${grid[@]}" --context-tokens 128,2048 --out "$out/dummies.csv" && costs "$step" "$out/dummies.csv" ''
        ;;
    record-family)
        mapfile -t arms < <(policies "${family[@]}")
        pool=$(join_names "${family[@]/#/$folder/models/}")
        limits='max_running: 4, token_budget: 512'
        exact=$(scenario exact "$pool" 'device: cpu' "$folder/family.jsonl" "$limits" 30 1 target_only)
        try "$step" exact "$program" record "$exact" --quiet --out "$out/exact"
        file=$(scenario family "$pool" 'device: cpu' "$folder/family.jsonl" "$limits" 30 1 "${arms[@]}")
        for dtype in bf16 f32; do
            name=recorded-$dtype
            try "$step" "$name" "$program" record "$file" --device "$device" --dtype "$dtype" --quiet --out "$out/$name" || continue
            measured "$step" "$name"
            same "$step" "$name" "$out/$name/arms/target_only/seed-1/texts.jsonl" 'target_only on the device'
            same "$step" "$name" "$out/exact/arms/target_only/seed-1/texts.jsonl" 'target_only on the processor'
        done
        ;;
    record-dummy)
        mapfile -t arms < <(policies "${dummies[@]}")
        pool=$(join_names "${dummies[@]}")
        for users in 1 8; do
            name=dummies-users-$users
            file=$(scenario "$name" "$pool" 'weights: dummy' "$folder/dummy.jsonl" \
                'max_running: 8, token_budget: 1024, kv_tokens: 32768' 16 "$users" "${arms[@]}")
            try "$step" "$name" "$program" record "$file" --device "$device" --quiet --out "$out/$name" && measured "$step" "$name"
        done
        ;;
    esac
done

# ---- the table ------------------------------------------------------------------------------------------------------

{
    printf 'step\twhat\tmeasure\tvalue\n'
    printf 'machine\t%s\tGPU, driver, memory\t%s\n' "$device" "$gpu"
    printf 'machine\t%s\tprogram\t%s\n' "$device" "$("$program" --version), $(($(wc -c <"$program") / 1000000)) MB"
    for step in "${steps_all[@]}"; do
        if [ -s "$out/$step.rows" ]; then cat "$out/$step.rows"; else printf '%s\t\tnot run\t\n' "$step"; fi
    done
} | awk -F'\t' '
    { for (i = 1; i <= 3; i++) { cell[NR, i] = $i; if (length($i) > wide[i]) wide[i] = length($i) } last[NR] = $4 }
    END { for (r = 1; r <= NR; r++) {
        line = ""
        for (i = 1; i <= 3; i++) line = line sprintf("%-" wide[i] "s  ", cell[r, i])
        line = line last[r]; sub(/ +$/, "", line); print line } }' | tee "$out/table.txt"
echo "cuda-check: logs are in $out" >&2
exit $failed
