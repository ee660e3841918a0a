# flashonnx_tensorrt_headers(TARGET VERSION): an interface target with TensorRT's headers; nothing links TensorRT itself.
# VERSION is one of find_trt_headers.py's, or empty for what the user or the system has. Without headers there is no
# target, and a message says why.
function(flashonnx_tensorrt_headers target version)
  set(command "${Python3_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/cmake/find_trt_headers.py"
      --cache "${PROJECT_BINARY_DIR}/tensorrt_headers")
  if(version)
    list(APPEND command --version "${version}")
  elseif(FLASHONNX_TENSORRT_INCLUDE)
    list(APPEND command --include "${FLASHONNX_TENSORRT_INCLUDE}")
  endif()
  execute_process(COMMAND ${command} OUTPUT_VARIABLE include OUTPUT_STRIP_TRAILING_WHITESPACE
                  ERROR_VARIABLE reasons RESULT_VARIABLE failed)
  if(failed)
    message(STATUS "The TensorRT plugin is left out. ${reasons}")
    return()
  endif()
  message(STATUS "TensorRT headers: ${include}")
  add_library(${target} INTERFACE)
  target_include_directories(${target} SYSTEM INTERFACE "${include}")
  if(FLASHONNX_CUDA_INCLUDE)
    target_include_directories(${target} SYSTEM INTERFACE "${FLASHONNX_CUDA_INCLUDE}")
  endif()
endfunction()
