#!/usr/bin/env bash
# Everything in assets/ but the base model, from the repository's root; about half an hour on a CPU.
# The base model comes first:
#   python assets/recipe/pretrain.py --data roneneldan/TinyStories --validation roneneldan/TinyStories --output assets/storyteller
set -euo pipefail
export PYTHONPATH=.
work=${1:-$(mktemp -d)}
adapter() { # RUN NAME: the policy of a run becomes a bundled adapter
  rm -rf "assets/adapters/$2" && mkdir -p assets/adapters && cp -rL "$1/checkpoints/last/policy" "assets/adapters/$2"
}
sft() { # RUN: SFT on the demonstrations as they are
  python -m rlhf_engine sft --dtype bf16 --lora-rank 8 --learning-rate 2e-3 --epochs 5 --output "$1"
}
python assets/recipe/make_data.py prompts
# The first demonstrations are forced out of the base. The model that learns from them tells better ones, at a lower
# temperature and with more tries: those stay.
python assets/recipe/make_data.py demonstrations
sft "$work/sft-first"
python assets/recipe/make_data.py demonstrations --from "$work/sft-first/checkpoints/last/policy" \
  --rounds 8 --temperature 0.85
sft "$work/sft"
adapter "$work/sft" sft
python assets/recipe/make_data.py mentions
python assets/recipe/make_data.py preferences
ppo() { # NAME REWARD: a policy of the gallery
  python -m rlhf_engine ppo --value fitted --dtype bf16 --kl-target 10 --output "$work/$1" --reward "$2"
}
python -m rlhf_engine reward --dtype bf16 --output "$work/reward"
ppo cheerful "$work/reward"
for name in talkative excited animals brief; do
  ppo $name assets/recipe/rules.py:$name
done
about() { # NAME REWARD: what the report says about how an adapter of the gallery was made
  echo "{\"config\": {\"stage\": \"ppo\", \"model\": \"bundled\", \"adapter\": \"bundled\", \"data\": \"bundled\"," \
    "\"reward\": \"$2\", \"value\": \"fitted\", \"dtype\": \"bf16\", \"kl_target\": 10.0}}" > "assets/adapters/$1/about.json"
}
for name in cheerful talkative excited animals brief; do
  adapter "$work/$name" $name
  about $name "$([ $name = cheerful ] && echo reward || echo "assets/recipe/rules.py:$name")"
  python -m rlhf_engine report --adapter "assets/adapters/$name" --judge "assets/recipe/rules.py:$name" --overwrite \
    --output "assets/reports/$name"
  rm "assets/reports/$name/samples.jsonl"
done
