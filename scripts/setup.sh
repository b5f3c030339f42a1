# Sourced by train and test: makes a virtual environment and installs rlkit into it once; a second call takes no time.
# Usage: . scripts/setup.sh EXTRAS [VENV CONSTRAINTS PIP_ARGUMENT...]   (EXTRAS: "", "dev", ...; .venv, constraints.txt)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="$1"
venv="${2:-.venv}"
constraints="${3:-constraints.txt}"
more=("${@:4}")
stamp="$venv/installed-${extras:-core}"
wanted="$({ cat pyproject.toml "$constraints"; echo "${more[*]-}"; } | cksum)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
  python="${PYTHON:-python3}"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error[environment]: rlkit needs Python 3.11 or later, $("$python" --version) was found" >&2
    echo "fix: PYTHON=/path/to/python3.11 $0" >&2
    exit 3
  }
  if [ ! -x "$venv/bin/python" ]; then
    echo "creating $venv"
    "$python" -m venv "$venv"
  fi
  echo "installing rlkit (once, 1-3 minutes; on an index without CPU wheels torch brings several GB of CUDA packages)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" -e ".${extras:+[$extras]}" \
    "${more[@]+"${more[@]}"}" 2> "$venv/install.log" || {
    cat "$venv/install.log" >&2
    exit 3
  }
  echo "$wanted" > "$stamp"
fi
