# Makes OUT, a C++ file with the page's files as strings: cmake -DOUT=FILE -P embed.cmake
set(text "// The files of server/rpc/page.\n#include \"server/rpc/page_assets.h\"\n\nnamespace dotmax {\n")
foreach(asset index.html page.css page.js)
  file(READ ${CMAKE_CURRENT_LIST_DIR}/${asset} content)
  string(REPLACE "." "_" name ${asset})
  string(APPEND text "\nconst absl::string_view page_${name} = R\"asset(${content})asset\";\n")
endforeach()
file(WRITE ${OUT} "${text}\n}  // namespace dotmax\n")
