// `std::format` for compilers older than gcc 13. mlx-c calls it in three error messages, with `{}` alone.

#ifndef OLLMLX_FORMAT_SHIM_H
#define OLLMLX_FORMAT_SHIM_H

#include <sstream>
#include <string>
#include <string_view>

namespace std {

template <typename... Values>
string format(string_view pattern, const Values&... values) {
  ostringstream text;
  auto put = [&](const auto& value) {
    auto hole = pattern.find("{}");
    if (hole != string_view::npos) {
      text << pattern.substr(0, hole) << value;
      pattern.remove_prefix(hole + 2);
    }
  };
  (put(values), ...);
  text << pattern;
  return text.str();
}

} // namespace std

#endif
