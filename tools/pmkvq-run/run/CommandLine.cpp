//===- CommandLine.cpp - pmkvq-run's options as declared ------------------===//
//
// Neighbours: CommandLine.h.
//
//===----------------------------------------------------------------------===//

#include "run/CommandLine.h"
#include "run/OptionValues.h"
#include <algorithm>

using namespace pmkvq::run;
namespace rt = ::pmkvq::rt;

ChoiceOption::ChoiceOption(std::string name, const std::string &words,
                           std::string help)
    : StringOption(std::move(name), words, std::move(help)) {
  choices = splitList(words, '|');
}

CommandLine::CommandLine(const std::vector<std::string> &stages, bool compiles)
    : compiles(compiles),
      prompt("prompt", "TEXT",
             "One prompt as text, in the model's chat template if it has one"),
      promptTokens("prompt-tokens", "1,2,3",
                   "One prompt as token ids; needs no Python"),
      prompts("prompts", "FILE.jsonl",
              "JSON lines with \"prompt\" as text or token ids, run as one "
              "batch"),
      maxTokens("max-tokens", "N",
                "Tokens to generate for each prompt, at most"),
      kvBudget("kv-budget", "SIZE",
               "Bytes of the whole batch's cache, everything counted: 300000, "
               "3500KiB, 2MiB, 1.5GB"),
      kvBits("kv-bits", "F",
             "A budget that gives pages F bits an element at the full length, "
             "parameters included"),
      schedule(
          "schedule", "keys_last|page|least_loss|layer|none",
          "When pages are lowered: single pages as memory demands, values to 2 "
          "bits before keys of any (keys_last, default), the same with keys "
          "and values together (page), keys or values of one page where a "
          "calibration's losses add least for a byte (least_loss, default with "
          "a calibration by divergence), all of a layer at once when its share "
          "is exceeded (layer), or never (none: each is written at the "
          "floor)"),
      floorLevel("floor", "2|4|8|16", "Lowest bits a code (default 2)"),
      keyFloor("key-floor", "2|4|8|16",
               "The same for keys alone (default: --floor)"),
      valueFloor("value-floor", "1|2|4|8|16",
                 "The same for values alone (default: --floor); 1 under "
                 "keys_last, page and least_loss"),
      keyFormat("key-format", "FORMAT",
                "per_channel, per_token or per_token_symmetric, and "
                "[+hadamard|+plain][+clip=F]; or paper (default "
                "per_channel+hadamard); with --bench also +feedback: keys fall "
                "as --rounding has it, by squares that are drawn"),
      valueFormat("value-format", "FORMAT",
                  "The same for values (default per_token+hadamard)"),
      calibration("calibration", "FILE.json",
                  "What script/calibrate found of this model: each layer's "
                  "clips, and what --allocate goes by"),
      allocate("allocate",
               "Give layers the floors, keys and values apart, that lose least "
               "within the budget; --floor is the lowest that may be chosen"),
      layerFloors("layer-floors", "0-3:8,5:4+2",
                  "Floors of single layers, of both parts or of keys and "
                  "values; --allocate leaves them"),
      keyScales("key-scales",
                "Divide key channels by the calibration's scales and multiply "
                "queries; weights take them, so that it costs nothing"),
      rounding("rounding", "feedback|nearest",
               "How keys fall to 4 and 2 bits with a calibration: so that what "
               "is lost lies where queries are small (feedback, default where "
               "the file has squares of queries), or each to the nearest code"),
      maxLoss("max-loss", "KL",
              "Refuse a run that is predicted to lose more, in nats a token, "
              "by a calibration with divergences (default 0.1)"),
      acceptLoss("accept-loss",
                 "Run whatever calibration predicts that is lost"),
      temperature("temperature", "F",
                  "Draw tokens with their logits divided by F (default 0: "
                  "always the most probable)"),
      topP("top-p", "F",
           "Draw among the most probable tokens that together reach F "
           "(default 1: all)"),
      seed("seed", "N", "The same seed draws the same tokens (default 0)"),
      device("device", "auto|cpu|cuda",
             "Where to run: cuda for --bench only so far (default auto: a GPU "
             "where it can be used, else the CPU)"),
      cacheDevice("cache-device", "cpu|cuda",
                  "Where the cache is kept, written and attended to, while the "
                  "rest of the model runs on the CPU (default cpu)"),
      cpu("cpu", "native|generic|avx2|avx512",
          "Whose instructions code for the CPU may use: all that this machine "
          "has (native, default), those of any machine of its kind, or these; "
          "--emit=asm prints code for a CPU that is not here"),
      codeCache("code-cache", "DIR|none",
                "Where compiled code is kept, so that a later run need not "
                "compile it again (default: pmkvq/code in $XDG_CACHE_HOME or "
                "~/.cache; at most 256 MiB)"),
      ptxas("ptxas", "auto|none|FILE",
            "Who assembles kernels of a GPU: the toolkit's ptxas where there "
            "is one that takes them, else the driver (auto, default); the "
            "driver (none); or this ptxas"),
      threads("threads", "N", "Threads (default: one a core)"),
      output("output", "text|jsonl|csv",
             "Text as it comes (default), one JSON line a prompt and a "
             "summary, or the lines of --bench"),
      logits("logits", "FILE",
             "Also write the logits after every prompt token, fed one by one "
             "after the first chunk, as safetensors: logits.0, logits.1, ..."),
      load(
          "load", "FILE.pmkvq",
          "Run what --emit=artifact has written, in place of a MODEL; compiles "
          "nothing. Options of the cache are those that it was compiled with; "
          "a budget may be another"),
      bench("bench", "attention|append|prefill|requantize|decode",
            "Check decode attention against double precision and measure it "
            "beside reading the same bytes; or requantize, from --levels to "
            "half of it, against the reference, beside copying as many bytes; "
            "or, on a GPU, append, with a flush to the level of --levels every "
            "128 steps, and prefill, of 2,048 new tokens a sequence over the "
            "context; these need no MODEL. With a MODEL, on the CPU, decode "
            "(whole steps of one token a sequence) and prefill (of 512), whose "
            "cache is at --levels or in a budget of --kv-bits. Comma lists in "
            "the options of this group, and with a MODEL of --threads and "
            "--kv-bits, are swept"),
      kvHeads("kv-heads", "8", "Heads of keys and values"),
      queryHeads("q-heads", "32", "Query heads, a multiple of them"),
      headDim("head-dim", "128", "Elements of a head"),
      batch("batch", "1", "Sequences"),
      context("context", "N|ragged:N-M[+Q]",
              "Tokens of each sequence (default 32768 on a GPU, 4096 on a "
              "CPU, 512 with a MODEL), or a range that lengths are drawn from; "
              "whole pages of "
              "128 unless N is no multiple or ragged: then with a sink and a "
              "window. +Q: attention of Q tokens decoded at once (up to 16), "
              "each of which sees those before it"),
      levels("levels", "LEVELS",
             "16, 8, 4, 2, k4v2 (keys 4, values 2), or "
             "mixed:2=192/4=48/8=16, pages in these proportions, oldest first, "
             "each level once, none above a later one (default 16,8,4,2)"),
      inputs(
          "inputs", "normal",
          "Kind of numbers: normal, outliers, tiny, huge, hundreds, "
          "thousands or myriads (of which ranges are), sharp (scores hundreds "
          "apart) or constant"),
      chip(
          "chip", "sm_80",
          "Compile attention for this kind of GPU; an older one's code runs on "
          "later ones, and before sm_90 the cache is copied with cp.async "
          "(default: the GPU's own)"),
      lower("lower", "N",
            "With --bench=attention on a GPU: one page of N, the oldest first, "
            "falls by a level; attention alone, lowering alone, and both in "
            "one launch"),
      explain("explain",
              "Print what the run will take, when its pages fall and what the "
              "budget buys, and stop; fails with the bytes missing if it does "
              "not fit"),
      check("check",
            "Compare the attention of every step, layer and query head with "
            "the reference in double precision over the decoded cache, and "
            "report the largest and the rms relative error; slow; exit code 2 "
            "if one exceeds the tolerance"),
      checkTolerance("check-tolerance", "F",
                     "Relative error that --check allows (default 0.001, with "
                     "--cache-device=cuda 0.005)"),
      emit("emit", "import|mlir[:STAGE]|llvm|asm|artifact",
           "Print the imported module, the module after the last or another "
           "stage, LLVM IR or assembly for this CPU, and stop; or write an "
           "artifact, one file with all that --load needs, for this CPU or "
           "--cpu's; needs no prompt"),
      outputFile("o", "FILE",
                 "Where --emit writes to (default: stdout; an artifact needs a "
                 "file)"),
      dumpStages("dump-stages", "DIR",
                 "Write the module before and after each stage of the "
                 "compiler, and an index.md"),
      help("help", "Print this help"),
      completion("completion", "bash",
                 "Print a script that completes options, "
                 "for `source`") {
  emit.choices = {"import", "mlir"};
  for (const std::string &stage : stages)
    emit.choices.push_back("mlir:" + stage);
  emit.choices.insert(emit.choices.end(), {"llvm", "asm", "artifact"});
  for (Option *option : std::initializer_list<Option *>{
           &schedule, &floorLevel, &keyFloor, &valueFloor, &keyFormat,
           &valueFormat, &cpu})
    option->use = Option::Use::Decision;
  for (Option *option : std::initializer_list<Option *>{
           &calibration, &allocate,   &layerFloors, &keyScales,      &rounding,
           &maxLoss,     &acceptLoss, &device,      &cacheDevice,    &codeCache,
           &ptxas,       &bench,      &kvHeads,     &queryHeads,     &headDim,
           &batch,       &context,    &levels,      &inputs,         &chip,
           &lower,       &explain,    &check,       &checkTolerance, &emit,
           &outputFile,  &dumpStages})
    option->use = Option::Use::Compiler;
  groups = {
      {"What to generate",
       {&prompt, &promptTokens, &prompts, &maxTokens, &temperature, &topP,
        &seed},
       "pmkvq-run model/ --prompts=batch.jsonl --max-tokens=200"},
      {"The cache: bytes, levels, formats",
       {&kvBudget, &kvBits, &schedule, &floorLevel, &keyFloor, &valueFloor,
        &keyFormat, &valueFormat, &calibration, &allocate, &layerFloors,
        &keyScales, &rounding, &maxLoss, &acceptLoss},
       "pmkvq-run model.gguf --prompt=Hello --max-tokens=2000 \\\n"
       "        --kv-budget=64MiB --key-floor=4"},
      {"How it runs",
       {&load, &device, &cacheDevice, &cpu, &codeCache, &ptxas, &threads,
        &output, &logits},
       "pmkvq-run test/models/reasoner --max-tokens=112 --output=jsonl \\\n"
       "        --prompts=test/models/reasoner/programs-16.jsonl"},
      {"Benchmark",
       {&bench, &kvHeads, &queryHeads, &headDim, &batch, &context, &levels,
        &inputs, &chip, &lower},
       "pmkvq-run --bench=attention --batch=1,8 --context=32768 \\\n"
       "        --levels=4,2,k4v2,mixed:2=192/4=48/8=16 --output=csv\n"
       "    pmkvq-run model/ --bench=decode --context=512,4096 --threads=1,2"},
      {"Looking inside",
       {&explain, &check, &checkTolerance, &emit, &outputFile, &dumpStages},
       "pmkvq-run model/ --prompt-tokens=1,2,3 --max-tokens=4000 \\\n"
       "        --kv-bits=3 --explain"},
      {"Help", {&help, &completion}, "source <(pmkvq-run --completion=bash)"},
  };
}

//===----------------------------------------------------------------------===//
// Parsing
//===----------------------------------------------------------------------===//

Option *CommandLine::find(const std::string &name) {
  if (name == "h")
    return &help;
  for (const OptionGroup &group : groups)
    for (Option *option : group.options)
      if (option->name == name)
        return option;
  return nullptr;
}

rt::Status CommandLine::parse(const std::vector<std::string> &arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string &argument = arguments[i];
    if (argument == "--") {
      models.insert(models.end(), arguments.begin() + i + 1, arguments.end());
      break;
    }
    if (argument.size() < 2 || argument[0] != '-') {
      models.push_back(argument);
      continue;
    }
    size_t equals = std::min(argument.find('='), argument.size());
    std::string spelled = argument.substr(0, equals);
    size_t begin = std::min(spelled.find_first_not_of('-'), spelled.size());
    Option *option = find(spelled.substr(begin));
    if (!option)
      return refusal("unknown option '" + argument +
                     "'; pmkvq-run --help lists them");
    if (option->isGiven)
      return refusal(spelled + ": expected once, got twice");
    option->isGiven = true;
    bool hasValue = equals < argument.size();
    if (option->value.empty()) {
      if (hasValue)
        return refusal(spelled + ": expected no value, got '" +
                       argument.substr(equals + 1) + "'");
      continue;
    }
    if (!hasValue && i + 1 == arguments.size())
      return refusal(spelled + ": expected a value, got none");
    // Only these have values.
    static_cast<StringOption *>(option)->text =
        hasValue ? argument.substr(equals + 1) : arguments[++i];
  }
  return rt::Status();
}
