#!/bin/sh
# The fused model in ONNX Runtime against the same in TensorRT:
#   polygraphy.sh fused.onnx model.trt.onnx MIN OPT MAX     shapes as in 'x:[1,1,128]', several inputs one beside the other
# model.trt.onnx is what `flashonnx engine --onnx` writes.
set -eu
fused=$1 prepared=$2 min=$3 opt=$4 max=$5
folder=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2086  # several inputs are several words
polygraphy run "$fused" --onnxrt --input-shapes $opt \
  --save-inputs "$work/inputs.json" --save-outputs "$work/outputs.json"
# shellcheck disable=SC2086
MODEL=$prepared polygraphy run "$folder/polygraphy_network.py" --model-type trt-network-script --trt \
  --trt-min-shapes $min --trt-opt-shapes $opt --trt-max-shapes $max --input-shapes $opt \
  --load-inputs "$work/inputs.json" --load-outputs "$work/outputs.json" --atol "${ATOL:-1e-3}" --rtol "${RTOL:-1e-3}"
