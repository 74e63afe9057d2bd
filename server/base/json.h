// Values as JSON text.
#ifndef DOTMAX_SERVER_BASE_JSON_H_
#define DOTMAX_SERVER_BASE_JSON_H_

#include <string>

#include "absl/strings/string_view.h"

namespace dotmax {

// `text` quoted and escaped. Bytes of 0x80 and above pass: what we print is UTF-8 or somebody's file name.
std::string JsonString(absl::string_view text);

// The shortest decimal that reads back as `value`; "null" for NaN and infinities, which JSON lacks.
std::string JsonNumber(double value);

}  // namespace dotmax

#endif  // DOTMAX_SERVER_BASE_JSON_H_
