// The example of README.md: asks the server argv[1] for the best rows for 16 vectors.
#include <cstdio>
#include <vector>

#include "dotmax/client.h"

int main(int argc, char** argv) {
  absl::StatusOr<dotmax::Client> client = dotmax::Client::Create({.target = argc > 1 ? argv[1] : "localhost:50051"});
  if (!client.ok()) return 1;
  std::vector<float> queries(16 * 100, 0.5f);  // 16 vectors of 100 numbers
  absl::StatusOr<dotmax::SearchResult> result =
      client->Search(dotmax::Rows(absl::MakeConstSpan(queries), 100), {.top_k = 10});
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
    return 1;
  }
  for (size_t h = result->begin(15); h < result->end(15); ++h) {
    std::printf("%llu %.17g\n", static_cast<unsigned long long>(result->ids[h]), result->scores[h]);
  }
  return 0;
}
