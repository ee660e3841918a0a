#!/usr/bin/env bash
# Runs this project's Python on a library that was built with sanitizers: sanitized_python.sh LIBRARY ARGUMENTS...
# The sanitizers must be loaded before Python itself. Leaks are not looked for: Python and ONNX Runtime keep memory to
# the end of the process on purpose, and no report tells theirs from ours.
set -euo pipefail
library=$(realpath "$1")
shift
preload=$(ldd "$library" | awk '/lib(asan|ubsan|clang_rt[^ ]*)\.so/ && $3 ~ /^\// {print $3}' | paste -sd:)
if [ -z "$preload" ]; then
  echo "error: $library was not built with -fsanitize" >&2
  exit 1
fi
cd "$(dirname "$0")/.."
# Exceptions that onnxruntime throws inside itself pass through the sanitizer only if libstdc++ is there when it starts.
preload="$preload:$(ldd "$library" | awk '/libstdc\+\+\.so/ {print $3}')"
LD_PRELOAD="$preload" FLASHONNX_LIBRARY="$library" \
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
  exec .venv/bin/python "$@"
