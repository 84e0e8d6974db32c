//===- Help.cpp - Help and completion of pmkvq-run ------------------------===//
//
// Both are made from the declared options alone.  Neighbours: CommandLine.h.
//
//===----------------------------------------------------------------------===//

#include "run/CommandLine.h"

using namespace pmkvq::run;

/// Columns of a terminal, and of the option's name in it.
static constexpr size_t kWidth = 80;
static constexpr size_t kIndent = 26;

static std::string dashed(const Option &option) {
  return (option.name.size() == 1 ? "-" : "--") + option.name;
}

/// "=" for options that take a value.
static std::string valueSign(const Option &option) {
  if (option.value.empty())
    return "";
  return option.name.size() == 1 ? " " : "=";
}

std::string pmkvq::run::spell(const Option &option) {
  return dashed(option) + valueSign(option) + option.value;
}

/// `text` in lines, the first of which has `indent` columns already.
static std::string wrap(const std::string &text, size_t indent) {
  std::string lines;
  size_t used = indent;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(' ', begin), text.size());
    if (used + (end - begin) + 1 > kWidth) {
      lines += "\n" + std::string(indent, ' ');
      used = indent;
    } else if (used > indent) {
      lines += " ";
      ++used;
    }
    lines.append(text, begin, end - begin);
    used += end - begin;
    begin = end + 1;
  }
  return lines + "\n";
}

static std::string describeOption(const Option &option) {
  std::string name = "  " + spell(option);
  // A name that is too long gets a line of its own.
  if (name.size() + 2 > kIndent)
    name += "\n" + std::string(kIndent, ' ');
  else
    name.resize(kIndent, ' ');
  return name + wrap(option.help, kIndent);
}

/// The options of a group that this tool can do something with.
static std::vector<const Option *> usable(const CommandLine &line,
                                          const OptionGroup &group) {
  std::vector<const Option *> options;
  for (const Option *option : group.options)
    if (line.compiles || option->use == Option::Use::Run)
      options.push_back(option);
  return options;
}

static const char kCompilerIntroduction[] =
    R"(pmkvq-run compiles a model and generates tokens with a progressively quantized
key-value cache: 16 bits while memory lasts, then 8, 4 and 2.

  pmkvq-run MODEL --prompt=TEXT --max-tokens=N [options]

MODEL is a Hugging Face folder (config.json and safetensors) or a GGUF file.

First steps
  1. A cache in bf16, which is what you get unless a budget, a schedule or a
     floor is given:
       pmkvq-run model.gguf --prompt="Why is the sky blue?" --max-tokens=200
  2. The same in a fixed memory; pages fall only as far as it takes:
       pmkvq-run model.gguf --prompt="Why is the sky blue?" --max-tokens=200 \
           --kv-bits=4
  3. What would that take, when do pages fall?  Add --explain.
  4. Every page at 4 bits from the start:
       pmkvq-run model/ --prompt-tokens=1,2,3 --max-tokens=8 \
           --schedule=none --floor=4
  5. The module that the compiler begins with, and the code it ends with:
       pmkvq-run model/ --emit=import -o step.mlir
       pmkvq-run model/ --emit=asm --floor=2 -o step.s
  6. How fast attention over such a cache is here, checked and measured:
       pmkvq-run --bench=attention --context=4096 --levels=16,4,2
  7. One file that runs without the compiler, here and elsewhere:
       pmkvq-run model/ --emit=artifact --schedule=page -o model.pmkvq
       pmkvq-run --load=model.pmkvq --prompt="Why?" --max-tokens=200 --kv-bits=3
  8. Is what the kernels compute right?  Every step, checked:
       pmkvq-run model/ --prompt-tokens=1,2,3 --max-tokens=200 --kv-bits=3 \
           --check
)";

static const char kLoaderIntroduction[] =
    R"(This pmkvq-run is built without the compiler: it runs artifacts, which a
pmkvq-run with the compiler writes, and generates tokens with a progressively
quantized key-value cache.

  pmkvq-run MODEL --emit=artifact -o model.pmkvq      (there)
  pmkvq-run --load=model.pmkvq --prompt=TEXT --max-tokens=N [options]
)";

std::string pmkvq::run::helpText(const CommandLine &line) {
  std::string text =
      line.compiles ? kCompilerIntroduction : kLoaderIntroduction;
  for (const OptionGroup &group : line.groups) {
    std::vector<const Option *> options = usable(line, group);
    if (options.empty())
      continue;
    text += "\n" + group.title + "\n";
    for (const Option *option : options)
      text += describeOption(*option);
    if (line.compiles)
      text += "  Example:\n    " + group.example + "\n";
  }
  return text +
         "\nTokens go to stdout, progress and a summary to stderr. The "
         "exit code is 0, or 1\nwith one line on stderr that says what "
         "is wrong" +
         (line.compiles ? "; 2 if --check found it.\n" : ".\n");
}

std::string pmkvq::run::bashCompletion(const CommandLine &line) {
  std::string names, cases;
  for (const OptionGroup &group : line.groups)
    for (const Option *option : usable(line, group)) {
      std::string sign = option->name.size() == 1 ? "" : valueSign(*option);
      names += (names.empty() ? "" : " ") + dashed(*option) + sign;
      if (option->value.empty())
        continue;
      // Only these have values.
      const auto *value = static_cast<const StringOption *>(option);
      std::string words;
      for (const std::string &choice : value->choices)
        words += (words.empty() ? "" : " ") + choice;
      if (!words.empty())
        cases += "    " + dashed(*option) + ") words=\"" + words + "\" ;;\n";
    }
  return R"(# Completion of pmkvq-run in bash: source <(pmkvq-run --completion=bash)
_pmkvq_run() {
  local at=$COMP_CWORD word=${COMP_WORDS[COMP_CWORD]} prefix= option= words=
  # bash takes --option=value and value:more apart.
  if [[ $word == : ]]; then
    prefix=${COMP_WORDS[at-1]}: word= at=$((at - 1))
  elif ((at >= 2)) && [[ ${COMP_WORDS[at-1]} == : ]]; then
    prefix=${COMP_WORDS[at-2]}: at=$((at - 2))
  fi
  if [[ $word == = ]]; then
    option=${COMP_WORDS[at-1]} word=
  elif ((at >= 2)) && [[ ${COMP_WORDS[at-1]} == = ]]; then
    option=${COMP_WORDS[at-2]}
  fi
  COMPREPLY=()
  case $option in
    '') [[ $word == -* ]] && words=")" +
         names + "\" ;;\n" + cases + R"(  esac
  # Without words bash completes files.
  [[ -n $words ]] || return 0
  COMPREPLY=($(compgen -W "$words" -- "$prefix$word"))
  COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
  [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -o default -F _pmkvq_run pmkvq-run
)";
}
