#pragma once

#include <string>

namespace evenflow {

// Numbers as text, with a decimal point whatever the program's locale says.

/// Up to six significant digits.
std::string rounded_text(double value);

/// The fewest digits that read as the same number: 0.1, 100000, 1e+16, 1e-05.
std::string exact_text(float value);
std::string exact_text(double value);

/// The number that a text of JSON's grammar stands for. One out of range is infinite, or zero.
double number_of(std::string text);

}  // namespace evenflow
