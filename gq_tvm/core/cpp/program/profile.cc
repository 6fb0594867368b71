#include "program/profile.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace gq {
namespace {

struct Row {
  std::string function, layer;
  size_t runs = 0;
  double microseconds = 0;  // of all its kernels, medians
};

double median(std::vector<float> seconds) {
  auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return 1e6 * static_cast<double>(*middle);
}

void add(std::vector<Row>& rows, const Callable& callable) {
  const Function& plan = callable.plan();
  size_t first = rows.size();
  for (size_t i = 0; i < plan.calls.size(); ++i) {
    const std::vector<float>& timings = callable.timings()[i];
    if (timings.empty()) continue;
    const Call& call = plan.calls[i];
    const std::string& layer = call.layer.empty() ? call.kernel : call.layer;
    auto same = [&](const Row& row) { return row.layer == layer; };
    auto row = std::find_if(rows.begin() + static_cast<std::ptrdiff_t>(first), rows.end(), same);
    if (row == rows.end()) row = rows.insert(rows.end(), {plan.name, layer, timings.size(), 0});
    row->microseconds += median(timings);
  }
}

std::string memory(const Model& model) {
  std::ifstream status("/proc/self/status");
  char text[96] = "";
  for (std::string line; std::getline(status, line);)
    if (line.compare(0, 6, "VmHWM:") == 0)
      std::snprintf(text, sizeof text, "peak memory %ld kB, weights %lld kB\n", std::atol(&line[6]),
                    static_cast<long long>(model.plan().weights.size / 1024));
  return text;
}

}  // namespace

std::string profile(Model& model) {
  std::vector<Row> rows;
  for (const auto& [name, _] : model.plan().functions) add(rows, model.function(name));
  double all = 0;
  for (const Row& row : rows) all += row.microseconds * static_cast<double>(row.runs);
  std::string text;
  for (const Row& row : rows) {
    char numbers[80];
    std::snprintf(numbers, sizeof numbers, " %8zu runs %10.1f us median %5.1f%%\n", row.runs,
                  row.microseconds, 100 * row.microseconds * static_cast<double>(row.runs) / all);
    std::string name = row.function + " " + row.layer;
    name.resize(std::max<size_t>(name.size(), 44), ' ');
    text += name + numbers;
  }
  return text + memory(model);
}

}  // namespace gq
