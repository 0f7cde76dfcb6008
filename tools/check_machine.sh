#!/usr/bin/env bash
# Say what this machine lacks for setting up elvsm without ROS, and what to type to get it.
# usage: tools/check_machine.sh PYTHON
set -euo pipefail

python="$1"
missing=()   # what is missing, in words
packages=()  # Debian and Ubuntu packages that bring it

if [[ "$(uname -sm)" != "Linux x86_64" ]]; then
  echo "elvsm: the ROS packages of PyPI exist for Linux on x86-64 only, and this is $(uname -sm)." >&2
  echo "Install ROS 2 (https://docs.ros.org), put this repository into a workspace and run colcon build." >&2
  exit 1
fi

if ! command -v "$python" > /dev/null; then
  missing+=("Python ($python)")
  packages+=("${python##*/}" "${python##*/}-venv" "${python##*/}-dev")
elif ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))'; then
  echo "elvsm: $python is $("$python" --version 2>&1), and 3.10 to 3.14 is needed." >&2
  echo "Name another one, for example: make PYTHON=python3.12" >&2
  exit 1
else
  if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
    missing+=("Python's venv module")
    packages+=("${python##*/}-venv")
  fi
  if [[ ! -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]]; then
    missing+=("Python's C headers")
    packages+=("${python##*/}-dev")
  fi
fi
if ! command -v "${CXX:-g++}" > /dev/null; then
  missing+=("a C++ compiler")
  packages+=("g++")
fi
if ! command -v git > /dev/null; then
  missing+=("git")
  packages+=("git")
fi

if ((${#missing[@]})); then
  list="$(printf '%s, ' "${missing[@]}")"
  echo "elvsm: this machine lacks ${list%, }. On Debian or Ubuntu type:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y ${packages[*]}" >&2
  exit 1
fi
