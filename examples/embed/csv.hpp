#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

/// A table of numbers; a first line that does not start with a number is a header.
struct Table {
  int64_t columns = 0;
  std::vector<float> values;
  int64_t rows() const { return columns ? static_cast<int64_t>(values.size()) / columns : 0; }
};

inline Table read_csv(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("can't read " + path);
  Table table;
  std::string line, cell;
  for (int number = 1; std::getline(file, line); ++number) {
    std::istringstream cells(line);
    std::vector<float> row;
    try {
      while (std::getline(cells, cell, ',')) row.push_back(std::stof(cell));
    } catch (const std::exception&) {
      if (number == 1) continue;
      throw std::runtime_error(path + ": line " + std::to_string(number) + ": no number: " + cell);
    }
    if (row.empty()) continue;
    if (table.columns == 0) table.columns = static_cast<int64_t>(row.size());
    if (table.columns != static_cast<int64_t>(row.size())) {
      throw std::runtime_error(path + ": line " + std::to_string(number) + " has another number of columns");
    }
    table.values.insert(table.values.end(), row.begin(), row.end());
  }
  return table;
}
