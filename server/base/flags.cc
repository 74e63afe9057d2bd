#include "server/base/flags.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace dotmax {
namespace {

constexpr size_t kHelpColumns = 100;
constexpr size_t kHelpIndent = 6;

// Levenshtein distance, for suggestions.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

absl::Status Refuse(absl::string_view text, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not ", expected));
}

// `text` wrapped into lines of at most kHelpColumns, each indented.
std::string Wrap(absl::string_view text) {
  std::string out;
  size_t column = 0;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (column == 0 || column + 1 + word.size() > kHelpColumns) {
      absl::StrAppend(&out, column == 0 ? "" : "\n", std::string(kHelpIndent, ' '), word);
      column = kHelpIndent + word.size();
    } else {
      absl::StrAppend(&out, " ", word);
      column += 1 + word.size();
    }
  }
  return out + "\n";
}

}  // namespace

Flags::Flags(std::string usage, std::string description)
    : usage_(std::move(usage)), description_(std::move(description)) {}

void Flags::Add(Spec spec, std::string* value) {
  flags_.push_back({std::move(spec), *value,
                    [value](absl::string_view text) {
                      *value = std::string(text);
                      return absl::OkStatus();
                    },
                    nullptr});
}

void Flags::Add(Spec spec, bool* value) {
  spec.metavar.clear();
  flags_.push_back({std::move(spec), *value ? "true" : "false",
                    [value](absl::string_view text) {
                      return absl::SimpleAtob(text, value) ? absl::OkStatus() : Refuse(text, "true or false");
                    },
                    nullptr});
}

void Flags::Add(Spec spec, int64_t min, int64_t max, int64_t* value) {
  flags_.push_back({std::move(spec), absl::StrCat(*value),
                    [value, min, max](absl::string_view text) {
                      int64_t parsed;
                      if (!absl::SimpleAtoi(text, &parsed) || parsed < min || parsed > max) {
                        return Refuse(text, absl::StrCat("an integer from ", min, " to ", max));
                      }
                      *value = parsed;
                      return absl::OkStatus();
                    },
                    nullptr});
}

void Flags::Add(Spec spec, double min, double max, double* value) {
  flags_.push_back({std::move(spec), absl::StrCat(*value),
                    [value, min, max](absl::string_view text) {
                      double parsed;
                      if (!absl::SimpleAtod(text, &parsed) || !(parsed >= min && parsed <= max)) {
                        return Refuse(text, absl::StrCat("a number from ", min, " to ", max));
                      }
                      *value = parsed;
                      return absl::OkStatus();
                    },
                    nullptr});
}

void Flags::Add(Spec spec, absl::Duration* value) {
  flags_.push_back({std::move(spec), absl::FormatDuration(*value),
                    [value](absl::string_view text) {
                      absl::Duration parsed;
                      if (!absl::ParseDuration(text, &parsed) || parsed < absl::ZeroDuration()) {
                        return Refuse(text, "a duration such as 500ms, 2s or 1m30s");
                      }
                      *value = parsed;
                      return absl::OkStatus();
                    },
                    nullptr});
}

void Flags::Add(Spec spec, std::vector<std::string>* value) {
  flags_.push_back({std::move(spec), absl::StrJoin(*value, ","),
                    [value](absl::string_view text) {
                      value->push_back(std::string(text));
                      return absl::OkStatus();
                    },
                    [value] { value->clear(); }});
}

absl::StatusOr<Flags::Parsed> Flags::Parse(int argc, const char* const* argv,
                                           absl::FunctionRef<const char*(const char*)> env) {
  for (const Flag& flag : flags_) {
    const char* text = flag.spec.env.empty() ? nullptr : env(flag.spec.env.c_str());
    if (text == nullptr) continue;
    std::vector<std::string> values = {text};
    if (flag.clear) {
      flag.clear();
      values = absl::StrSplit(text, ',', absl::SkipEmpty());
    }
    for (const std::string& value : values) {
      if (absl::Status s = flag.set(value); !s.ok()) {
        return absl::InvalidArgumentError(absl::StrCat(flag.spec.env, ": ", s.message()));
      }
    }
  }

  Parsed parsed;
  std::vector<const Flag*> cleared;  // repeatable flags whose first occurrence has dropped what was there
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (argument == "--") {
      parsed.positionals.insert(parsed.positionals.end(), argv + i + 1, argv + argc);
      break;
    }
    if (argument == "--help" || argument == "-h") {
      parsed.help = true;
      continue;
    }
    if (argument.size() < 2 || argument[0] != '-') {  // "-" alone is a name: standard input
      parsed.positionals.emplace_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    const absl::string_view given = argument.substr(0, equals);
    const absl::string_view name = absl::StripPrefix(given, "--");
    const auto flag =
        std::find_if(flags_.begin(), flags_.end(), [&](const Flag& f) { return f.spec.name == name; });
    if (flag == flags_.end() || given == name) {
      std::string message = absl::StrCat("unknown flag ", given);
      const auto nearest = std::min_element(flags_.begin(), flags_.end(), [&](const Flag& a, const Flag& b) {
        return EditDistance(a.spec.name, name) < EditDistance(b.spec.name, name);
      });
      if (nearest != flags_.end() && EditDistance(nearest->spec.name, name) <= 1 + name.size() / 3) {
        absl::StrAppend(&message, "; did you mean --", nearest->spec.name, "?");
      }
      return absl::InvalidArgumentError(message);
    }
    absl::string_view value;
    if (equals != absl::string_view::npos) {
      value = argument.substr(equals + 1);
    } else if (flag->spec.metavar.empty()) {
      value = "true";
    } else if (++i < argc) {
      value = argv[i];
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat(given, " needs a value: ", given, "=", flag->spec.metavar));
    }
    if (flag->clear && std::find(cleared.begin(), cleared.end(), &*flag) == cleared.end()) {
      flag->clear();
      cleared.push_back(&*flag);
    }
    if (absl::Status s = flag->set(value); !s.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(given, ": ", s.message()));
    }
  }
  return parsed;
}

std::string Flags::Help() const {
  std::string out = absl::StrCat("Usage: ", usage_, "\n\n", description_, "\n\nFlags:\n");
  for (const Flag& flag : flags_) {
    absl::StrAppend(&out, "  --", flag.spec.name, flag.spec.metavar.empty() ? "" : "=", flag.spec.metavar,
                    "\n");
    std::vector<std::string> notes;
    if (!flag.default_text.empty()) notes.push_back(absl::StrCat("default ", flag.default_text));
    if (flag.clear) notes.push_back("repeatable");
    if (!flag.spec.env.empty()) notes.push_back(absl::StrCat("environment ", flag.spec.env));
    const std::string note = notes.empty() ? "" : absl::StrCat(" (", absl::StrJoin(notes, ", "), ")");
    out += Wrap(flag.spec.help + note);
  }
  absl::StrAppend(&out, "  --help\n", Wrap("Shows this text."));
  return out;
}

}  // namespace dotmax
