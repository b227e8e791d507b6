// Parameters of a plugin: read once from plugin fields, kept, and given back when an engine is
// written. What is missing, of another type or beyond its range throws std::invalid_argument.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "abi.h"

namespace earmark::trt {

class Fields {
 public:
  // Copies; fields that are not among `known` are refused.
  Fields(const FieldCollection& given, const std::vector<std::string>& known);
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  bool has(const std::string& name) const { return values_.count(name) != 0; }
  int integer(const std::string& name, int low, int high) const;
  int integer(const std::string& name, int low, int high, int otherwise) const;
  // A double, written out: parsers make float32 of numbers.
  double number(const std::string& name) const;
  // `size` values, or any number for -1.
  std::vector<int8_t> bytes(const std::string& name, int64_t size = -1) const;
  std::vector<int> integers(const std::string& name, int64_t size) const;
  // All finite.
  std::vector<float> floats(const std::string& name, int64_t size = -1) const;
  std::string text(const std::string& name) const;

  const FieldCollection& collection() const { return collection_; }

 private:
  struct Value {
    FieldType type;
    int32_t length;
    std::vector<char> data;
  };
  const Value& find(const std::string& name, FieldType type, int64_t size) const;

  std::map<std::string, Value> values_;
  std::vector<Field> fields_;
  FieldCollection collection_;
};

}  // namespace earmark::trt
