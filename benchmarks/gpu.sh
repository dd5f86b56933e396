#!/usr/bin/env bash
# All that is measured on a GPU, in one run of under ten minutes:
#
#     bash benchmarks/gpu.sh PAINTINGS OUTPUT
#
# PAINTINGS holds the folders train and test; figures, logs and checkpoints go to OUTPUT. A step that fails is named at
# the end and does not stop the others. PYTHON chooses the interpreter. To try it out on a CPU:
#
#     DEVICE=cpu SIZE=32 EPOCHS=1 BATCH=32 POINTS=2000 SECONDS_A_CASE=0.2 ROUNDS=1 bash benchmarks/gpu.sh PAINTINGS OUTPUT
#
# BATCH is the batch size of part 1. WEIGHTS, a file of ImageNet weights for mobilenet_v2, adds a run that starts from them.
set -uo pipefail

[ $# -eq 2 ] || { echo "usage: bash benchmarks/gpu.sh PAINTINGS OUTPUT" >&2; exit 2; }
paintings=$(cd "$1" && pwd) && mkdir -p "$2" && output=$(cd "$2" && pwd) || exit 2
[ -z "${WEIGHTS:-}" ] || WEIGHTS=$(realpath "$WEIGHTS") || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3} device=${DEVICE:-cuda} size=${SIZE:-128} epochs=${EPOCHS:-30} batch=${BATCH:-256}
timing=(--seconds "${SECONDS_A_CASE:-1.5}" --rounds "${ROUNDS:-7}")
export PYTHONUNBUFFERED=1
failed=()

# step NAME COMMAND...: runs it with its output in NAME.log too, and says how long it took from start to end.
step() {
    local name=$1 begun ended status
    shift
    echo "== $name: $*"
    begun=$(date +%s.%N)
    "$@" 2>&1 | tee "$output/$name.log"
    status=$?
    ended=$(date +%s.%N)
    [ $status -eq 0 ] || failed+=("$name")
    awk -v name="$name" -v a="$begun" -v b="$ended" -v s=$status \
        'BEGIN { printf "%-24s %8.1f s, exit status %d\n", name, b - a, s }' | tee -a "$output/seconds.txt"
}

: > "$output/seconds.txt"
if [ "$device" = cuda ]; then nvidia-smi > "$output/nvidia-smi.txt"; fi
shared=(-c data/wikiart/config.json --trainingdir "$paintings/train" --testingdir "$paintings/test"
    --image_size "$size" --device "$device")

# From files to checkpoint: nothing is decoded yet, for either part.
rm -rf "$output"/{part1,part2,transfer,many,cache1,cache2}
step part1 "$python" trainpart1.py "${shared[@]}" --batch_size "$batch" --epochs "$epochs" \
    --outputdir "$output/part1" --cachedir "$output/cache1"
step part2 "$python" trainauto.py "${shared[@]}" --epochs "$epochs" --outputdir "$output/part2" \
    --cachedir "$output/cache2"
step part1_test "$python" testtrainpart1.py "${shared[@]}" --outputdir "$output/part1" --cachedir "$output/cache1"
step part2_test "$python" testtrainauto.py "${shared[@]}" --outputdir "$output/part2" --cachedir "$output/cache2"
if [ -n "${WEIGHTS:-}" ]; then
    transfer=(--architecture mobilenet_v2 --pretrained "$WEIGHTS" --epochs 0 --outputdir "$output/transfer")
    step transfer "$python" trainpart1.py "${shared[@]}" "${transfer[@]}" --cachedir "$output/cache1"
    step transfer_test "$python" testtrainpart1.py "${shared[@]}" --outputdir "$output/transfer" \
        --cachedir "$output/cache1"
fi
if [ "$device" = cuda ]; then
    step tests "$python" -m pytest tests/test_gpu.py
    gpus=$(nvidia-smi --list-gpus | wc -l)
    if [ "$gpus" -gt 1 ]; then
        step many_gpus "$python" -m torch.distributed.run --standalone --nproc_per_node="$gpus" trainpart1.py \
            "${shared[@]}" --epochs 3 --outputdir "$output/many" --cachedir "$output/cache1"
    fi
fi

step throughput "$python" benchmarks/throughput.py --trainingdir "$paintings/train" --image_size "$size" \
    --batch_size "$batch" --device "$device" "${timing[@]}" --json "$output/throughput.json"
if [ "$device" = cuda ]; then
    step host_memory "$python" benchmarks/throughput.py --trainingdir "$paintings/train" --image_size "$size" \
        --batch_size "$batch" --device "$device" "${timing[@]}" --decode 500 --host_memory --json "$output/host_memory.json"
fi
step clustering "$python" benchmarks/clustering.py --points "${POINTS:-81444}" --device "$device"
step smote_loop "$python" benchmarks/smote.py --loop_only --image_size "$size" --device "$device" "${timing[@]}" \
    --json "$output/smote_loop.json"
rm -rf "$output"/cache[12]
echo "== wall time"
cat "$output/seconds.txt"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
