// Text in columns, and files of comma-separated values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace polarquant_demo {

// `value` as printf would print it; "-" (or what is given) for NaN.
inline std::string formatted(const char* format, double value, const char* none = "-") {
  if (std::isnan(value)) return none;
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// Prints rows of cells, the first of them a header, in aligned columns: the first column to the
// left, the others to the right. A header may have several lines, split at '\n'.
inline void print_columns(const std::vector<std::vector<std::string>>& rows) {
  const std::size_t num_columns = rows[0].size();
  std::vector<std::vector<std::string>> header(1);  // [lines, columns]
  std::vector<std::size_t> widths(num_columns, 0);
  for (std::size_t column = 0; column < num_columns; ++column) {
    std::size_t line = 0;
    for (const char c : rows[0][column] + "\n") {
      if (line == header.size()) header.emplace_back();
      header[line].resize(num_columns);
      if (c == '\n') {
        widths[column] = std::max(widths[column], header[line][column].size());
        ++line;
      } else {
        header[line][column] += c;
      }
    }
  }
  for (std::size_t row = 1; row < rows.size(); ++row) {
    for (std::size_t column = 0; column < num_columns; ++column) {
      widths[column] = std::max(widths[column], rows[row][column].size());
    }
  }
  const auto print_line = [&widths](const std::vector<std::string>& cells) {
    for (std::size_t column = 0; column < cells.size(); ++column) {
      const int width = static_cast<int>(widths[column]);
      std::printf(column == 0 ? "%-*s" : "  %*s", width, cells[column].c_str());
    }
    std::printf("\n");
  };
  std::size_t total = 0;
  for (const std::size_t width : widths) total += width + 2;
  for (const auto& line : header) print_line(line);
  std::printf("%s\n", std::string(total - 2, '-').c_str());
  for (std::size_t row = 1; row < rows.size(); ++row) print_line(rows[row]);
}

// Writes lines of cells. Throws std::runtime_error, naming the file, if that fails.
inline void write_csv(const std::string& path, const std::vector<std::vector<std::string>>& rows) {
  std::ofstream file(path);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      // Names hold commas; none holds a quote.
      const bool quote = row[i].find(',') != std::string::npos;
      file << (i == 0 ? "" : ",") << (quote ? "\"" : "") << row[i] << (quote ? "\"" : "");
    }
    file << "\n";
  }
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace polarquant_demo
