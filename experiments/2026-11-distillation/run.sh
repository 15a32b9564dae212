#!/usr/bin/env bash
# A two-layer student of a six-layer teacher on SST-2, and the same student without one; and what the teachers know
# together. From the project's root:
#
#   experiments/2026-11-distillation/run.sh WEIGHTS DATA OUT
#
# WEIGHTS is MiniLM-L6 in Hugging Face's layout, DATA the folder of SST-2. The same command goes on after a kill.
set -eu
weights=$1 data=$2 out=$3

train() { # NAME WORDS...: a run, unless it is done
  local home=$out/$1
  shift
  [ -e "$home/report.html" ] || fmjax train --config=configs/sst2.py --workdir="$home" \
    --config.data.path="$data/train.tsv" --config.data.eval_path="$data/dev.tsv" "$@"
}

told() { # NAME WORDS...: its answers to the test split
  local file=$out/$1.txt
  shift
  [ -e "$file" ] || { fmjax eval "$@" --config.data.eval_path="$data/test.tsv" >"$file.part" && mv "$file.part" "$file"; }
}

# The student has the teacher's first layer and its last, and more and larger steps than the teacher had.
student=(--config.init_layers="(0, 5)" --config.optimizer.learning_rate=2e-4 --config.train.epochs=6)
lesson=(--config.distillation.weight=0.9 --config.distillation.temperature=2.0)
for seed in 0 1 2; do
  teacher=$out/teacher-$seed
  train "teacher-$seed" --config.seed=$seed --config.init_from="hf:$weights"
  train "alone-$seed" --config.seed=$seed --config.init_from="$teacher" "${student[@]}"
  train "taught-$seed" --config.seed=$seed --config.init_from="$teacher" "${student[@]}" \
    --config.distillation.teacher="$teacher" "${lesson[@]}"
  for name in teacher alone taught; do
    told "$name-$seed" --model="$out/$name-$seed"
  done
done
told together --model="$out/teacher-0" --model="$out/teacher-1" --model="$out/teacher-2" \
  --predictions="$out/together.jsonl"
grep -H accuracy "$out"/*.txt
