//===- Sweep.cpp - Many shapes, one table ---------------------------------===//
//
// Neighbours: Sweep.h.
//
//===----------------------------------------------------------------------===//

#include "Sweep.h"

#include <cinttypes>
#include <cstdio>
#include <sstream>

using namespace pmkvq;
using namespace pmkvq::bench;

/// data/peers-h200.csv.
static constexpr const char kPeers[] =
#include "Peers.inc"
    ;

std::vector<Shape> bench::expand(const Sweep &sweep,
                                 const std::string &defaultContext) {
  std::vector<Shape> shapes = {Shape()};
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
  return row.device == "cpu" ? std::nullopt : findPeer(shape);
}

std::string bench::csvHeader() {
  return "device,kv_heads,q_heads,head_dim,batch,context,levels,key_format,"
         "value_format,us,spread,bytes,read_us,ratio,rms_rel_err,max_rel_err,"
         "peer,peer_us\n";
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
     << format("%.3f", row.readMicroseconds) << ','
     << format("%.4f", row.ratio()) << ',' << format("%.3e", row.errors.rms)
     << ',' << format("%.3e", row.errors.largest) << ','
     << (peer ? peer->kernel : "") << ','
     << (peer ? format("%.2f", peer->microseconds) : "") << '\n';
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

std::string bench::textLine(const Shape &shape, const Measurement &row) {
  std::ostringstream what;
  what << shape.batch << " x " << shape.context << ", " << shape.queryHeads
       << '/' << shape.kvHeads << 'x' << shape.headDim;
  std::optional<Peer> peer = peerOf(shape, row);
  char line[512];
  std::snprintf(
      line, sizeof(line),
      "%-14s %-24s %-26s %9.2f %7.2f %8.1f %9.2f %6.3f %8.1e  %s\n",
      row.device.c_str(), what.str().c_str(), shape.levels.c_str(),
      row.attention.median, row.attention.spread,
      static_cast<double>(row.bytes) / 1e6, row.readMicroseconds, row.ratio(),
      row.errors.rms,
      peer ? (format("%.2f ", peer->microseconds) + peer->kernel).c_str()
           : "-");
  return line;
}
