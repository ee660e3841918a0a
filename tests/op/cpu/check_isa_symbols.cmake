# Fails if a file compiled for a wide instruction set defines a symbol outside of that set's namespace: the linker could
# take that definition for one of the baseline's, and run it on a CPU that lacks the instructions.
# Usage: cmake -DNM=... -DISA=avx2 -DOBJECTS=a.o,b.o -P check_isa_symbols.cmake
string(REPLACE "," ";" objects "${OBJECTS}")
set(count 0)
foreach(object IN LISTS objects)
  execute_process(COMMAND ${NM} --defined-only --extern-only -C ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX REPLACE "\n$" "" symbols "${symbols}")
  string(REPLACE "\n" ";" symbols "${symbols}")
  foreach(symbol IN LISTS symbols)
    math(EXPR count "${count} + 1")
    if(NOT symbol MATCHES "flashonnx::cpu::${ISA}::" AND NOT symbol MATCHES "DW\\.ref\\.|__odr_asan\\.")
      message(SEND_ERROR "${object}: ${symbol}")
    endif()
  endforeach()
endforeach()
if(count EQUAL 0)
  message(FATAL_ERROR "no symbols found in: ${OBJECTS}")
endif()
