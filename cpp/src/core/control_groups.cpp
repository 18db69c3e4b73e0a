#include "core/control_groups.hpp"

#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>

namespace evenflow {
namespace {

void each_line(const std::string& path, const std::function<void(const std::string& line)>& f) {
#if defined(__linux__)
  const char* mode = "re";  // closed in a program that another thread starts
#else
  const char* mode = "r";
#endif
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), mode), std::fclose);
  if (!file) return;
  char line[4096];  // a group's path may be that long
  while (std::fgets(line, sizeof line, file.get())) f(std::string(line, std::strcspn(line, "\n")));
}

}  // namespace

std::vector<int64_t> numbers_after(const std::string& path, const std::string& word) {
  std::vector<int64_t> numbers;
  each_line(path, [&](const std::string& line) {
    if (line.compare(0, word.size(), word) != 0) return;
    for (const char *at = line.data() + word.size(), *end = line.data() + line.size(); at < end;) {
      int64_t number;
      const std::from_chars_result read = std::from_chars(at, end, number);
      if (read.ec == std::errc()) numbers.push_back(number);
      at = read.ec == std::errc() ? read.ptr : at + 1;
    }
  });
  return numbers;
}

// Lines of /proc/self/cgroup: number:controllers:path, without controllers for version 2.
void each_control_group(const std::string& root, const std::string& controller,
                        const std::function<void(const std::string& folder)>& f) {
  each_line(root + "/proc/self/cgroup", [&](const std::string& line) {
    const size_t first = line.find(':'), second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) return;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool version2 = controllers == ",,";
    if (!version2 && controllers.find("," + controller + ",") == controllers.npos) return;
    const std::string mount = root + "/sys/fs/cgroup" + (version2 ? "" : "/" + controller);
    f(mount);
    const std::string group = line.substr(second + 1);
    for (size_t end = group.size(); end != 0 && end != group.npos; end = group.rfind('/', end - 1)) {
      f(mount + group.substr(0, end));
    }
  });
}

}  // namespace evenflow
