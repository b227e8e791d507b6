// The one host check: throws std::invalid_argument with the offending values in its text.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace earmark {

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace earmark

#define EARMARK_CHECK(condition, ...)                              \
  do {                                                             \
    if (!(condition)) {                                            \
      throw std::invalid_argument(::earmark::concat(__VA_ARGS__)); \
    }                                                              \
  } while (0)
