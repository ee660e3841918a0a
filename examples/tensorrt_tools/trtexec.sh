#!/bin/sh
# Builds and times an engine: trtexec.sh model.trt.onnx MIN OPT MAX   shapes as in x:1x1x128, several with a comma between
# model.trt.onnx is what `flashonnx engine --onnx` writes.
set -eu
plugin=$(python -c 'import flashonnx; print(flashonnx.get_plugin_path())')
trtexec --onnx="$1" --dynamicPlugins="$plugin" --stronglyTyped --minShapes="$2" --optShapes="$3" --maxShapes="$4"
