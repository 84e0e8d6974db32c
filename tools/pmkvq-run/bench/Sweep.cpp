//===- Sweep.cpp - Many shapes, one table ---------------------------------===//
//
// Neighbours: Sweep.h.
//
//===----------------------------------------------------------------------===//

#include "Sweep.h"

#include <algorithm>
#include <cstdio>
#include <sstream>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;

/// data/peers-h200.csv.
static constexpr const char kPeers[] =
#include "Peers.inc"
    ;

rt::Status bench::checkCount(const Sweep &sweep) {
  constexpr size_t most = 10000;
  size_t count = 1;
  for (size_t values :
       {sweep.kvHeads.size(), sweep.queryHeads.size(), sweep.headDims.size(),
        sweep.batches.size(), std::max<size_t>(1, sweep.contexts.size()),
        sweep.levels.size(), sweep.keyFormats.size(),
        sweep.valueFormats.size()}) {
    if (values > most / count)
      return {rt::StatusCode::InvalidArgument,
              "expected lists of at most " + std::to_string(most) +
                  " combinations; sweep less at a time"};
    count *= values;
  }
  return {};
}

std::vector<Shape> bench::expand(const Sweep &sweep,
                                 const std::string &defaultContext) {
  std::vector<Shape> shapes = {Shape()};
  shapes.front().inputs = sweep.inputs;
  auto vary = [&](const auto &values, auto member) {
    std::vector<Shape> varied;
    for (const Shape &shape : shapes)
      for (const auto &value : values) {
        varied.push_back(shape);
        varied.back().*member = value;
      }
    shapes = std::move(varied);
  };
  vary(sweep.kvHeads, &Shape::kvHeads);
  vary(sweep.queryHeads, &Shape::queryHeads);
  vary(sweep.headDims, &Shape::headDim);
  vary(sweep.keyFormats, &Shape::keyFormat);
  vary(sweep.valueFormats, &Shape::valueFormat);
  vary(sweep.batches, &Shape::batch);
  vary(sweep.contexts.empty() ? std::vector<std::string>{defaultContext}
                              : sweep.contexts,
       &Shape::context);
  vary(sweep.levels, &Shape::levels);
  return shapes;
}

std::string bench::describe(const Shape &shape) {
  std::ostringstream os;
  os << shape.batch << " x " << shape.context << ", " << shape.queryHeads
     << " query and " << shape.kvHeads << " kv heads of " << shape.headDim
     << ", levels " << shape.levels;
  if (shape.inputs != Shape().inputs)
    os << ", " << shape.inputs << " inputs";
  return os.str();
}

std::optional<Peer> bench::findPeer(const Shape &shape) {
  // Rows begin with the shape; none of its fields holds a comma.
  std::ostringstream prefix;
  prefix << shape.kvHeads << ',' << shape.queryHeads << ',' << shape.headDim
         << ',' << shape.batch << ',' << shape.context << ',' << shape.levels
         << ',';
  std::istringstream lines(kPeers);
  std::optional<Peer> best;
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, prefix.str().size(), prefix.str()) != 0)
      continue;
    size_t comma = line.rfind(',');
    size_t begin = prefix.str().size();
    double time = std::strtod(line.c_str() + comma + 1, nullptr);
    if (!best || time < best->microseconds)
      best = Peer{line.substr(begin, comma - begin), time};
  }
  return best;
}

static std::string format(const char *pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, value);
  return text;
}

/// Peers are kernels of GPUs.
static std::optional<Peer> peerOf(const Shape &shape, const Measurement &row) {
  return row.device == "cpu" || !row.isAttention ? std::nullopt
                                                 : findPeer(shape);
}

std::string bench::csvHeader(bool hasRates) {
  std::string columns =
      "device,kv_heads,q_heads,head_dim,batch,context,levels,key_format,"
      "value_format,us,spread,bytes,read_us,ratio,rms_rel_err,max_rel_err,"
      "peer,peer_us";
  return columns + (hasRates ? ",tflops\n" : "\n");
}

std::string bench::csvLine(const Shape &shape, const Measurement &row) {
  std::optional<Peer> peer = peerOf(shape, row);
  std::ostringstream os;
  os << row.device << ',' << shape.kvHeads << ',' << shape.queryHeads << ','
     << shape.headDim << ',' << shape.batch << ',' << shape.context << ','
     << shape.levels << ',' << plainFormat(shape.keyFormat) << ','
     << plainFormat(shape.valueFormat) << ','
     << format("%.3f", row.attention.median) << ','
     << format("%.3f", row.attention.spread) << ',' << row.bytes << ','
     << (row.readMicroseconds > 0 ? format("%.3f", row.readMicroseconds) : "")
     << ',' << (row.readMicroseconds > 0 ? format("%.4f", row.ratio()) : "")
     << ',' << format("%.3e", row.errors.rms) << ','
     << format("%.3e", row.errors.largest) << ',' << (peer ? peer->kernel : "")
     << ',' << (peer ? format("%.2f", peer->microseconds) : "")
     << (row.operations ? "," + format("%.1f", row.teraflops()) : "") << '\n';
  return os.str();
}

std::string bench::textHeader() {
  char line[256];
  std::snprintf(line, sizeof(line),
                "%-14s %-24s %-26s %9s %7s %8s %9s %6s %8s  %s\n", "device",
                "batch x context, heads", "levels", "us", "spread", "MB",
                "read us", "ratio", "rms err", "best peer (H200)");
  return line;
}

/// 8 characters of megabytes: "302.0", or "0.004096" where one digit says
/// nothing.
static std::string megabytes(int64_t bytes) {
  return format(bytes < 1'000'000 ? "%8.6f" : "%8.1f",
                static_cast<double>(bytes) / 1e6);
}

std::string bench::textLine(const Shape &shape, const Measurement &row) {
  std::ostringstream what;
  what << shape.batch << " x " << shape.context << ", " << shape.queryHeads
       << '/' << shape.kvHeads << 'x' << shape.headDim;
  std::optional<Peer> peer = peerOf(shape, row);
  const bool reads = row.readMicroseconds > 0;
  char line[512];
  std::snprintf(
      line, sizeof(line),
      "%-14s %-24s %-26s %9.2f %7.2f %8s %9s %6s %8.1e  %s\n",
      row.device.c_str(), what.str().c_str(), shape.levels.c_str(),
      row.attention.median, row.attention.spread, megabytes(row.bytes).c_str(),
      reads ? format("%.2f", row.readMicroseconds).c_str() : "-",
      reads ? format("%.3f", row.ratio()).c_str() : "-", row.errors.rms,
      peer ? (format("%.2f ", peer->microseconds) + peer->kernel).c_str()
      : row.operations ? format("%.1f TFLOP/s", row.teraflops()).c_str()
                       : "-");
  return line;
}
