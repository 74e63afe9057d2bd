// The files of server/rpc/page, which the build makes strings of.
#ifndef DOTMAX_SERVER_RPC_PAGE_ASSETS_H_
#define DOTMAX_SERVER_RPC_PAGE_ASSETS_H_

#include "absl/strings/string_view.h"

namespace dotmax {

extern const absl::string_view page_index_html;
extern const absl::string_view page_page_css;
extern const absl::string_view page_page_js;

}  // namespace dotmax

#endif  // DOTMAX_SERVER_RPC_PAGE_ASSETS_H_
