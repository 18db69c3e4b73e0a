#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

// What Linux's control groups, and with them a container, leave to this process.

namespace evenflow {

/// Calls f(folder) for this process's control group of a controller ("memory", "cpu") and for all groups
/// above it, in version 1 or 2. The mount point counts too: in a container it may be the container's own
/// group, while /proc/self/cgroup has the host's path.
void each_control_group(const std::string& root, const std::string& controller,
                        const std::function<void(const std::string& folder)>& f);

/// The whole numbers in each line of a small text file that begins with `word`. An unreadable file has none.
std::vector<int64_t> numbers_after(const std::string& path, const std::string& word);

}  // namespace evenflow
