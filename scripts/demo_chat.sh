#!/usr/bin/env bash
# demo_chat.sh BUNDLE: asks a chat bundle three questions and prints answers, speed and memory. Fails unless the answer
# to the first names Nairobi.
set -eu -o pipefail
questions=(
  "What is the capital of Kenya?"
  "Explain in two sentences why the sky is blue."
  "List three uses of a mobile phone for a farmer."
)
answers=$(mktemp)
trap 'rm -f "$answers"' EXIT
for question in "${questions[@]}"; do
  echo "> $question"
  mobile-bundle run "$1" --chat --prompt "$question" --max-new-tokens 160 2>&1 | tee -a "$answers"
  echo
done
grep -q Nairobi "$answers" || { echo "demo_chat.sh: the model does not name Nairobi, the capital of Kenya" >&2; exit 1; }
