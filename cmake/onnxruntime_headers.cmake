# onnxruntime_headers: an interface target with ONNX Runtime's C API headers; nothing links the runtime itself.
set(command "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/find_ort_headers.py"
    --cache "${PROJECT_BINARY_DIR}/onnxruntime_headers")
if(FLASHONNX_ORT_INCLUDE)
  list(APPEND command --include "${FLASHONNX_ORT_INCLUDE}")
endif()
execute_process(COMMAND ${command} OUTPUT_VARIABLE ort_include OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "flashonnx needs ONNX Runtime's headers; the lines above say where they were looked for.")
endif()
message(STATUS "ONNX Runtime headers: ${ort_include}")

add_library(onnxruntime_headers INTERFACE)
target_include_directories(onnxruntime_headers SYSTEM INTERFACE "${ort_include}")
