# Copies the code block that follows "<!-- snippet: NAME -->" in a page to a file:
#   cmake -DPAGE=using.md -DNAME=ring -DOUTPUT=ring.hpp -P snippet.cmake
file(READ "${PAGE}" text)
string(FIND "${text}" "<!-- snippet: ${NAME} -->\n```cpp\n" begin)
if(begin EQUAL -1)
  message(FATAL_ERROR "${PAGE} has no snippet ${NAME}")
endif()
string(SUBSTRING "${text}" ${begin} -1 text)
string(FIND "${text}" "```cpp\n" begin)
math(EXPR begin "${begin} + 7")
string(SUBSTRING "${text}" ${begin} -1 text)
string(FIND "${text}" "```" end)
string(SUBSTRING "${text}" 0 ${end} snippet)
file(WRITE "${OUTPUT}" "${snippet}")
