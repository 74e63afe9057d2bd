// A test of the tests: leaves out one term of one error bound, so that some test must fail
// (tests/mutation.sh).
#ifndef DOTMAX_SERVER_ENGINE_MUTATION_H_
#define DOTMAX_SERVER_ENGINE_MUTATION_H_

#ifdef DOTMAX_MUTATIONS
#include <cstdlib>
#include <string_view>
#endif

namespace dotmax {

// `value`, at no cost. Built with the CMake option DOTMAX_MUTATIONS, `without` (of a factor: 1) while the
// environment variable DOTMAX_DROP_TERM names the term. `name` is a literal; one name may stand in two places
// that only make sense together.
#ifdef DOTMAX_MUTATIONS
inline double Term(std::string_view name, double value, double without = 0.0) {
  static const char* const dropped = std::getenv("DOTMAX_DROP_TERM");
  return dropped != nullptr && name == dropped ? without : value;
}
#else
constexpr double Term(const char* /*name*/, double value, double /*without*/ = 0.0) { return value; }
#endif

}  // namespace dotmax

#endif  // DOTMAX_SERVER_ENGINE_MUTATION_H_
