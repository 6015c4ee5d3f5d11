#!/usr/bin/env bash
# Runs every fuzz target at once and says how many inputs each had. Needs nothing but bash, awk and xargs, so that the
# folder can be taken to another Linux machine of the same processor:
#   scripts/fuzz.sh DIRECTORY (--minutes N | --inputs N) [--processes N] [--seed N]
# DIRECTORY: fuzz_TARGET programs, and seeds/TARGET/ with what each starts from (`make fuzz` makes both).
# --inputs: of all targets together, divided equally. --processes: at once; one per processor, but at least one per
# target. --seed: of the first process, the others count on from it; a fresh one otherwise.
# What was found is in DIRECTORY/found, each input with a .log beside it that says how to run it again. Status 1 then.
set -eu
usage() {
  sed -n '4p' "$0" | cut -c5- >&2
  exit 2
}
[ $# -ge 3 ] || usage
directory=$(cd "$1" && pwd)
shift
minutes='' inputs='' processes=$(nproc) seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] && [[ $2 =~ ^[0-9]+$ ]] || usage
  case $1 in
    --minutes) minutes=$2 ;;
    --inputs) inputs=$2 ;;
    --processes) processes=$2 ;;
    --seed) seed=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[ -n "$minutes$inputs" ] && { [ -z "$minutes" ] || [ -z "$inputs" ]; } || usage
targets=()
for program in "$directory"/fuzz_*; do targets+=("$(basename "$program")"); done
[ "$processes" -ge ${#targets[@]} ] || processes=${#targets[@]}
found=$directory/found
mkdir -p "$found"
echo "random seeds from $seed on, $processes processes"

# One line for each process: program, seed, option and value. In parts, so that a fast target does not leave its
# processors to nobody while a slow one goes on.
jobs() {
  if [ -n "$minutes" ]; then
    for ((i = 0; i < processes; i++)); do
      echo "${targets[i % ${#targets[@]}]} $((seed + i)) --seconds $((minutes * 60))"
    done
    return
  fi
  local each=$(((inputs + ${#targets[@]} - 1) / ${#targets[@]})) part=50000 i=0
  for ((done = 0; done < each; done += part)); do
    for target in "${targets[@]}"; do
      echo "$target $((seed + i++)) --inputs $((each - done < part ? each - done : part))"
    done
  done
}
one() { # a line of jobs
  read -r target seed option value <<<"$1"
  "$directory/$target" --seed "$seed" "$option" "$value" --found "$found" "$directory/seeds/${target#fuzz_}"/* ||
    [ $? -eq 1 ] || echo "$target: did not run"
}
export -f one
export directory found
jobs | xargs -P "$processes" -d '\n' -n 1 bash -c 'one "$0"' | tee "$directory/last.txt" | grep -v ' 0 findings' || true
awk '/did not run/ { bad = 1; next }
     { sub(":", "", $1); inputs[$1] += $2; findings[$1] += $4; all += $2; bad += $4 > 0 }
     END { for (target in inputs) printf "%-16s %12d inputs %6d findings\n", target, inputs[target], findings[target]
           printf "%-16s %12d inputs\n", "all", all
           exit bad > 0 || all == 0 }' "$directory/last.txt" || {
  echo "something was found, or did not run: look into $found"
  exit 1
}
