#include "program.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace evenflow::ptx {
namespace {

using Words = std::vector<std::string_view>;

std::string_view trimmed(std::string_view s) {
  const size_t begin = s.find_first_not_of(" \t;"), end = s.find_last_not_of(" \t;");
  return begin == std::string_view::npos ? std::string_view() : s.substr(begin, end - begin + 1);
}

/// The parts of s between separators that are in no brackets.
Words split(std::string_view s, char separator) {
  Words parts;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i <= s.size(); ++i) {
    const char c = i < s.size() ? s[i] : separator;
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (c != separator || (depth > 0 && i < s.size())) continue;
    if (const std::string_view part = trimmed(s.substr(begin, i - begin)); !part.empty())
      parts.push_back(part);
    begin = i + 1;
  }
  return parts;
}

int64_t number(std::string_view s, int base = 0) {
  const std::string text(s);
  return text[0] == '-' ? std::strtoll(text.c_str(), nullptr, base)
                        : static_cast<int64_t>(std::strtoull(text.c_str(), nullptr, base));
}

const std::map<std::string_view, Type> kTypes = {
    {"u8", Type::u8},     {"s8", Type::s8},   {"b8", Type::u8},   {"u16", Type::u16},
    {"s16", Type::s16},   {"b16", Type::u16}, {"u32", Type::u32}, {"s32", Type::s32},
    {"b32", Type::u32},   {"u64", Type::u64}, {"s64", Type::s64}, {"b64", Type::u64},
    {"bf16", Type::bf16}, {"f32", Type::f32}, {"f64", Type::f64}, {"pred", Type::pred}};
const std::map<std::string_view, Comparison> kComparisons = {
    {"eq", Comparison::eq},   {"ne", Comparison::ne},   {"lt", Comparison::lt},   {"le", Comparison::le},
    {"gt", Comparison::gt},   {"ge", Comparison::ge},   {"equ", Comparison::equ}, {"neu", Comparison::neu},
    {"ltu", Comparison::ltu}, {"leu", Comparison::leu}, {"gtu", Comparison::gtu}, {"geu", Comparison::geu},
    {"num", Comparison::num}, {"nan", Comparison::nan}};
/// Instructions of one type with plain operands, by all before the type. Other roundings, .ftz or .sat of
/// theirs are not known.
const std::map<std::string_view, Op> kPlain = {{"add", Op::add},
                                               {"add.rn", Op::add},
                                               {"sub", Op::sub},
                                               {"mul", Op::mul},
                                               {"mul.rn", Op::mul},
                                               {"mul.lo", Op::mul_lo},
                                               {"mul.hi", Op::mul_hi},
                                               {"mul.wide", Op::mul_wide},
                                               {"mad.lo", Op::mad_lo},
                                               {"fma.rn", Op::fma},
                                               {"div", Op::div},
                                               {"div.rn", Op::div},
                                               {"rem", Op::rem},
                                               {"min", Op::min},
                                               {"max", Op::max},
                                               {"neg", Op::neg},
                                               {"abs", Op::abs},
                                               {"sqrt.rn", Op::sqrt},
                                               {"rcp.rn", Op::rcp},
                                               {"rcp.approx.ftz", Op::rcp_approx},
                                               {"and", Op::bit_and},
                                               {"or", Op::bit_or},
                                               {"xor", Op::bit_xor},
                                               {"not", Op::bit_not},
                                               {"shl", Op::shl},
                                               {"shr", Op::shr},
                                               {"selp", Op::selp},
                                               {"mov", Op::mov},
                                               {"ex2.approx.ftz", Op::ex2},
                                               {"copysign", Op::copysign},
                                               {"cvta.to.global", Op::mov}};
const std::map<std::string_view, Rounding> kRoundings = {{"cvt", Rounding::none},
                                                         {"cvt.rn", Rounding::nearest},
                                                         {"cvt.rzi", Rounding::integer_zero},
                                                         {"cvt.rni", Rounding::integer_nearest}};
const std::map<std::string_view, Space> kSpaces = {
    {"param", Space::param}, {"global", Space::global}, {"shared", Space::shared}, {"local", Space::local}};

/// Reads one kernel, line by line.
class Reader {
 public:
  explicit Reader(Kernel& kernel) : kernel_(kernel) {}

  void read(std::string_view text) {
    int depth = 0;  // of braces
    for (size_t begin = 0, end; begin < text.size(); begin = end + 1) {
      end = std::min(text.find('\n', begin), text.size());
      std::string_view line = line_ = text.substr(begin, end - begin);
      if (const size_t comment = line.find("//"); comment != std::string_view::npos)
        line = line.substr(0, comment);
      line = trimmed(line);
      depth += (line == "{") - (line == "}");
      if (line == "}" && depth == 0) break;
      if (line.empty() || line == "{" || line == "}" || line == ")" || starts(line, ".reg") ||
          starts(line, ".pragma")) {
        continue;
      }
      if (starts(line, ".param") && depth == 0) {
        if (kernel_.parameters != 0) unknown();
        place(line, kernel_.parameters);
      } else if (starts(line, ".maxntid")) {
        kernel_.threads = static_cast<int>(number(line.substr(9)));
      } else if (starts(line, ".shared")) {
        place(line, kernel_.shared);
      } else if (starts(line, ".local")) {
        place(line, kernel_.local);
      } else if (line.back() == ':') {
        labels_[line.substr(0, line.size() - 1)] = static_cast<int>(kernel_.code.size());
      } else if (depth > 0) {
        instruction(line);
      }
    }
    if (kernel_.code.empty() || kernel_.code.back().op != Op::ret) unknown();
    for (const auto& [index, label] : branches_) kernel_.code[index].target = labels_.at(label);
  }

 private:
  static bool starts(std::string_view s, std::string_view with) { return s.substr(0, with.size()) == with; }
  [[noreturn]] void unknown() const { give_up("expected PTX that is known, got " + std::string(line_)); }

  /// An array `... name[bytes]`, behind `total` bytes of its space.
  void place(std::string_view line, int64_t& total) {
    const size_t bracket = line.find('['), name = line.find_last_of(" \t", bracket) + 1;
    if (bracket == std::string_view::npos) unknown();
    total = (total + 15) / 16 * 16;
    symbols_[line.substr(name, bracket - name)] = total;
    total += number(line.substr(bracket + 1));
  }

  int slot(std::string_view name) {
    const auto [found, is_new] = slots_.emplace(name, kernel_.registers);
    if (is_new) ++kernel_.registers;
    return found->second;
  }
  int constant(uint64_t value) {
    const auto [found, is_new] = constants_.emplace(value, kernel_.registers);
    if (is_new) kernel_.constants.push_back({kernel_.registers++, value});
    return found->second;
  }
  int operand(std::string_view s) {
    if (s == "%tid.x") return kernel_.thread = slot(s);
    if (s == "%ctaid.x") return kernel_.block = slot(s);
    if (s == "%nctaid.x") return kernel_.blocks = slot(s);
    if (s[0] == '%') return s.find('.') == std::string_view::npos ? slot(s) : (unknown(), 0);
    if (s[0] == '0' && s.size() > 2 && (s[1] == 'f' || s[1] == 'd')) return constant(number(s.substr(2), 16));
    if ((s[0] >= '0' && s[0] <= '9') || s[0] == '-') return constant(number(s));
    const auto symbol = symbols_.find(s);
    return symbol != symbols_.end() ? constant(symbol->second) : (unknown(), 0);
  }
  /// `a`, or `{a, b, ...}`; returns how many.
  int operands(std::string_view s, int* to) {
    int count = 0;
    for (const std::string_view part : s[0] == '{' ? split(s.substr(1, s.size() - 2), ',') : Words{s}) {
      to[count++] = operand(part);
    }
    return count;
  }
  /// `[a]` or `[a+offset]`.
  void address(std::string_view s, Instruction& i) {
    const std::string_view inside = s.substr(1, s.size() - 2);
    const size_t plus = inside.find('+');
    i.of[0] = operand(inside.substr(0, plus));
    i.offset = plus == std::string_view::npos ? 0 : number(inside.substr(plus + 1));
  }

  void instruction(std::string_view line) {
    Instruction i;
    i.text = line;
    if (line[0] == '@') {
      i.negated = line[1] == '!';
      const size_t end = line.find_first_of(" \t");
      i.predicate = slot(line.substr(1 + i.negated, end - 1 - i.negated));
      line = trimmed(line.substr(end));
    }
    const size_t end = line.find_first_of(" \t");
    const std::string_view name = line.substr(0, end);
    const Words parts = split(name, '.');
    const Words args = end == std::string_view::npos ? Words() : split(line.substr(end), ',');
    const auto type = kTypes.find(parts.back());
    if (type != kTypes.end()) i.type = type->second;
    const auto plain = kPlain.find(name.substr(0, name.rfind('.')));
    if (parts[0] == "bra") {
      i.op = Op::bra;
      branches_.push_back({kernel_.code.size(), args.at(0)});
    } else if (name == "bar.sync" && args.at(0) == "0") {
      i.op = Op::bar;
    } else if (parts[0] == "ld" || parts[0] == "st") {
      memory(parts, args, i);
    } else if (parts[0] == "ldmatrix" || parts[0] == "mma") {
      warp(name, args, i);
    } else if (parts[0] == "setp" && parts.size() == 3) {
      i.op = Op::setp;
      i.comparison = kComparisons.at(parts[1]);
      plain_operands(args, i);
    } else if (parts[0] == "cvt") {
      i.op = Op::cvt;
      i.from = i.type;
      i.type = kTypes.at(parts[parts.size() - 2]);
      const size_t types = parts[parts.size() - 2].size() + parts.back().size() + 2;
      i.rounding = kRoundings.at(name.substr(0, name.size() - types));
      plain_operands(args, i);
    } else if (parts[0] == "mov" && (args.at(0)[0] == '{' || args.at(1)[0] == '{')) {
      i.op = args[0][0] == '{' ? Op::unpack : Op::pack;
      operands(args[0], i.to);
      operands(args[1], i.of);
    } else if (plain != kPlain.end() && type != kTypes.end()) {
      i.op = plain->second;
      plain_operands(args, i);
    } else if (name != "ret") {
      unknown();
    }
    kernel_.code.push_back(i);
  }

  void plain_operands(const Words& args, Instruction& i) {
    i.to[0] = operand(args.at(0));
    for (size_t a = 1; a < args.size(); ++a) i.of[a - 1] = operand(args[a]);
  }

  void memory(const Words& parts, const Words& args, Instruction& i) {
    const bool loads = parts[0] == "ld";
    i.op = loads ? Op::ld : Op::st;
    i.space = kSpaces.at(parts[1]);
    address(args.at(loads ? 1 : 0), i);
    i.count = operands(args.at(loads ? 0 : 1), loads ? i.to : i.of + 1);
  }

  void warp(std::string_view name, const Words& args, Instruction& i) {
    if (name == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") {
      i.op = Op::mma;
      operands(args.at(0), i.to);
      int* next = i.of;
      for (size_t a = 1; a < 4; ++a) next += operands(args.at(a), next);
      return;
    }
    const bool transposed = name == "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16";
    if (!transposed && name != "ldmatrix.sync.aligned.m8n8.x4.shared.b16") unknown();
    i.op = transposed ? Op::ldmatrix_trans : Op::ldmatrix;
    i.space = Space::shared;
    operands(args.at(0), i.to);
    address(args.at(1), i);
  }

  Kernel& kernel_;
  std::string_view line_;
  std::unordered_map<std::string_view, int> slots_, labels_;
  std::unordered_map<std::string_view, int64_t> symbols_;
  std::unordered_map<uint64_t, int> constants_;
  std::vector<std::pair<size_t, std::string_view>> branches_;
};

}  // namespace

int size_of(Type type) {
  constexpr int sizes[] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 1};
  return sizes[static_cast<int>(type)];
}

void Program::add(std::string_view text) {
  constexpr std::string_view entry = ".entry ";
  for (size_t at = text.find(entry); at != std::string_view::npos;) {
    const size_t name = at + entry.size(), next = text.find(entry, name);
    texts_[std::string(text.substr(name, text.find('(', name) - name))] = text.substr(name);
    at = next;
  }
}

const Kernel& Program::kernel(const std::string& name) {
  const auto text = texts_.find(name);
  if (text == texts_.end()) give_up("expected PTX of " + name + ", got none");
  const auto [found, is_new] = kernels_.emplace(name, Kernel());
  if (is_new) {
    found->second.name = name;
    Reader(found->second).read(text->second);
  }
  return found->second;
}

void give_up(const std::string& why) {
  std::fprintf(stderr, "PTX: %s\n", why.c_str());
  std::abort();
}

}  // namespace evenflow::ptx
