#include "fields.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "core/check.h"

namespace earmark::trt {
namespace {

size_t size_of(FieldType type) {
  switch (type) {
    case FieldType::kInt8:
    case FieldType::kChar:
      return 1;
    case FieldType::kInt32:
    case FieldType::kFloat32:
      return 4;
    case FieldType::kInt64:
    case FieldType::kFloat64:
      return 8;
    default:
      return 0;
  }
}

template <class T>
std::vector<T> copy(const std::vector<char>& data) {
  std::vector<T> values(data.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), data.data(), data.size());
  return values;
}

}  // namespace

Fields::Fields(const FieldCollection& given, const std::vector<std::string>& known) {
  EARMARK_CHECK(given.count >= 0 && (given.count == 0 || given.fields != nullptr),
                "a collection of ", given.count, " plugin fields");
  for (int i = 0; i < given.count; ++i) {
    const Field& field = given.fields[i];
    EARMARK_CHECK(field.name != nullptr, "plugin field ", i, " has no name");
    EARMARK_CHECK(std::find(known.begin(), known.end(), field.name) != known.end(),
                  "unknown plugin field '", field.name, "'");
    const size_t size = size_of(field.type);
    EARMARK_CHECK(size != 0, "plugin field '", field.name, "' is of type ",
                  static_cast<int>(field.type));
    EARMARK_CHECK(field.length >= 0 && (field.length == 0 || field.data != nullptr),
                  "plugin field '", field.name, "' has ", field.length, " values");
    const auto* data = static_cast<const char*>(field.data);
    Value value = {field.type, field.length, {}};
    if (field.length > 0) value.data.assign(data, data + size * field.length);
    EARMARK_CHECK(values_.emplace(field.name, std::move(value)).second, "plugin field '",
                  field.name, "' is there twice");
  }
  for (const auto& [name, value] : values_) {
    fields_.push_back({name.c_str(), value.data.data(), value.type, value.length});
  }
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

const Fields::Value& Fields::find(const std::string& name, FieldType type, int64_t size) const {
  const auto found = values_.find(name);
  EARMARK_CHECK(found != values_.end(), "there is no plugin field '", name, "'");
  const Value& value = found->second;
  EARMARK_CHECK(value.type == type, "plugin field '", name, "' is of type ",
                static_cast<int>(value.type), ", expected ", static_cast<int>(type));
  EARMARK_CHECK(size < 0 || value.length == size, "plugin field '", name, "' has ", value.length,
                " values, expected ", size);
  return value;
}

int Fields::integer(const std::string& name, int low, int high) const {
  const int value = copy<int32_t>(find(name, FieldType::kInt32, 1).data)[0];
  EARMARK_CHECK(low <= value && value <= high, "plugin field '", name, "' is ", value,
                ", expected ", low, " to ", high);
  return value;
}

int Fields::integer(const std::string& name, int low, int high, int otherwise) const {
  return has(name) ? integer(name, low, high) : otherwise;
}

double Fields::number(const std::string& name) const {
  const std::string written = text(name);
  char* end = nullptr;
  const double value = std::strtod(written.c_str(), &end);
  EARMARK_CHECK(!written.empty() && *end == '\0' && std::isfinite(value), "plugin field '", name,
                "' is '", written, "', expected a number");
  return value;
}

std::vector<int8_t> Fields::bytes(const std::string& name, int64_t size) const {
  return copy<int8_t>(find(name, FieldType::kInt8, size).data);
}

std::vector<int> Fields::integers(const std::string& name, int64_t size) const {
  return copy<int32_t>(find(name, FieldType::kInt32, size).data);
}

std::vector<float> Fields::floats(const std::string& name, int64_t size) const {
  const auto values = copy<float>(find(name, FieldType::kFloat32, size).data);
  for (const float value : values) {
    EARMARK_CHECK(std::isfinite(value), "plugin field '", name, "' holds ", value);
  }
  return values;
}

std::string Fields::text(const std::string& name) const {
  const Value& value = find(name, FieldType::kChar, -1);
  const std::string text(value.data.begin(), value.data.end());
  return text.substr(0, text.find('\0'));  // some parsers count the end
}

}  // namespace earmark::trt
