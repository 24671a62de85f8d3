#!/usr/bin/env bash
# Everything in assets/ but the base model, from the repository's root; a few minutes on a CPU.
# The base model comes first:
#   python assets/recipe/pretrain.py --data roneneldan/TinyStories --validation roneneldan/TinyStories --output assets/storyteller
set -euo pipefail
export PYTHONPATH=.
work=${1:-$(mktemp -d)}
adapter() { # RUN NAME: the policy of a run becomes a bundled adapter
  rm -rf "assets/adapters/$2" && mkdir -p assets/adapters && cp -rL "$1/checkpoints/last/policy" "assets/adapters/$2"
}
python assets/recipe/make_data.py prompts
python assets/recipe/make_data.py demonstrations
python -m rlhf_engine sft --output "$work/sft"
adapter "$work/sft" sft
python assets/recipe/make_data.py mentions
python assets/recipe/make_data.py preferences
python -m rlhf_engine reward --output "$work/reward"
python -m rlhf_engine ppo --reward "$work/reward" --output "$work/cheerful"
python -m rlhf_engine ppo --reward assets/recipe/rules.py:talkative --output "$work/talkative"
for name in cheerful talkative; do
  adapter "$work/$name" $name
  python -m rlhf_engine evaluate --adapter "$work/$name" --against bundled --judge "assets/recipe/rules.py:$name" \
    --max-new-tokens 96 --output "$work/$name-won"
done
