// Softmax attention and its gradients, computed from refimpl's test vectors without anything of refimpl.
//
//   attention DIR DIR2
//
// reads DIR/manifest.json and each safetensors file that it lists for primitives/softmax_attention in float32 or
// float64, and writes the results into files of the same names in DIR2. Then
//
//   refimpl vectors verify DIR --outputs DIR2
//
// says whether they are right. C++17, no libraries. A safetensors file is eight bytes with the length of a header, the
// header in JSON (of each tensor its dtype, its shape and where its bytes begin and end), and the bytes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

// --- JSON, as much of it as there is ---------------------------------------------------------------------------------

struct Json {
    std::map<std::string, Json> object;
    std::vector<Json> array;
    std::string text;  // of a string, a number or a literal

    const Json& operator[](const std::string& key) const {
        auto found = object.find(key);
        if (found == object.end()) throw std::runtime_error("no key " + key);
        return found->second;
    }
    std::size_t number() const { return std::stoull(text); }
};

class Parser {
public:
    explicit Parser(const std::string& text) : text_(text) {}

    Json value() {
        Json found;
        char c = peek();
        if (c == '{' || c == '[') {
            bool is_object = c == '{';
            char end = is_object ? '}' : ']';
            ++at_;
            while (peek() != end) {
                std::string key;
                if (is_object) {
                    key = string();
                    expect(':');
                }
                Json child = value();
                if (is_object) found.object.emplace(key, std::move(child));
                else found.array.push_back(std::move(child));
                if (peek() == ',') ++at_;
            }
            ++at_;
        } else if (c == '"') {
            found.text = string();
        } else {
            while (at_ < text_.size() && !std::strchr(",]} \n\t\r", text_[at_])) found.text += text_[at_++];
        }
        return found;
    }

private:
    char peek() {
        while (at_ < text_.size() && std::strchr(" \n\t\r", text_[at_])) ++at_;
        if (at_ >= text_.size()) throw std::runtime_error("JSON ends early");
        return text_[at_];
    }
    void expect(char c) {
        if (peek() != c) throw std::runtime_error(std::string("JSON: expected ") + c);
        ++at_;
    }
    std::string string() {  // no name in a manifest needs an escape
        expect('"');
        std::size_t start = at_;
        at_ = text_.find('"', at_);
        if (at_ == std::string::npos) throw std::runtime_error("JSON: a string without end");
        return text_.substr(start, at_++ - start);
    }

    const std::string& text_;
    std::size_t at_ = 0;
};

// --- safetensors -----------------------------------------------------------------------------------------------------

struct Tensor {
    std::string dtype;
    std::vector<std::size_t> shape;
    std::vector<char> bytes;

    template <typename T> const T* as() const { return reinterpret_cast<const T*>(bytes.data()); }
};

using Tensors = std::map<std::string, Tensor>;

std::string content(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Tensors read(const std::string& path) {
    std::string file = content(path);
    std::uint64_t length;
    if (file.size() < 8) throw std::runtime_error(path + ": too short");
    std::memcpy(&length, file.data(), 8);  // little-endian, as this machine is taken to be
    if (length > file.size() - 8) throw std::runtime_error(path + ": too short");
    std::string header = file.substr(8, length);
    Tensors found;
    for (const auto& [name, about] : Parser(header).value().object) {
        if (name == "__metadata__") continue;
        Tensor tensor;
        tensor.dtype = about["dtype"].text;
        for (const Json& size : about["shape"].array) tensor.shape.push_back(size.number());
        std::size_t begin = about["data_offsets"].array.at(0).number(), end = about["data_offsets"].array.at(1).number();
        if (begin > end || end > file.size() - 8 - length) throw std::runtime_error(path + ": offsets out of the file");
        const char* start = file.data() + 8 + length;
        tensor.bytes.assign(start + begin, start + end);
        found.emplace(name, std::move(tensor));
    }
    return found;
}

void write(const std::string& path, const Tensors& tensors) {
    std::string header = "{", bytes;
    for (const auto& [name, tensor] : tensors) {
        if (header.size() > 1) header += ",";
        header += "\"" + name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[";
        for (std::size_t i = 0; i < tensor.shape.size(); ++i) header += (i ? "," : "") + std::to_string(tensor.shape[i]);
        header += "],\"data_offsets\":[" + std::to_string(bytes.size()) + ",";
        bytes.append(tensor.bytes.begin(), tensor.bytes.end());
        header += std::to_string(bytes.size()) + "]}";
    }
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::uint64_t length = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), 8);
    file << header << bytes;
    if (!file) throw std::runtime_error("cannot write " + path);
}

// --- attention -------------------------------------------------------------------------------------------------------

template <typename T> struct Result {
    std::vector<T> output, query, key, value;
};

// One item of the batch: query (m, d), key (n, d), value (n, p), cotangent (m, p); seen(i, j) is the mask.
template <typename T, typename Seen>
void attend(const T* query, const T* key, const T* value, const T* cotangent, Seen seen, T scale, std::size_t m,
            std::size_t n, std::size_t d, std::size_t p, T* output, T* to_query, T* to_key, T* to_value) {
    std::vector<T> weights(n);
    for (std::size_t i = 0; i < m; ++i) {
        T largest = -std::numeric_limits<T>::infinity(), total = 0;
        for (std::size_t j = 0; j < n; ++j) {
            T score = 0;
            for (std::size_t k = 0; k < d; ++k) score += query[i * d + k] * key[j * d + k];
            weights[j] = seen(i, j) ? score * scale : -std::numeric_limits<T>::infinity();
            largest = std::max(largest, weights[j]);
        }
        for (T& weight : weights) total += weight = std::exp(weight - largest);
        for (std::size_t j = 0; j < n; ++j) {
            weights[j] /= total;
            for (std::size_t k = 0; k < p; ++k) output[i * p + k] += weights[j] * value[j * p + k];
        }
        T mean = 0;  // of the scores' cotangents before the softmax
        for (std::size_t k = 0; k < p; ++k) mean += cotangent[i * p + k] * output[i * p + k];
        for (std::size_t j = 0; j < n; ++j) {
            T to_weight = 0;
            for (std::size_t k = 0; k < p; ++k) {
                to_weight += cotangent[i * p + k] * value[j * p + k];
                to_value[j * p + k] += weights[j] * cotangent[i * p + k];
            }
            T to_score = weights[j] * (to_weight - mean) * scale;
            for (std::size_t k = 0; k < d; ++k) {
                to_query[i * d + k] += to_score * key[j * d + k];
                to_key[j * d + k] += to_score * query[i * d + k];
            }
        }
    }
}

template <typename T> Tensor tensor(const char* dtype, const std::vector<std::size_t>& shape, const std::vector<T>& x) {
    Tensor made{dtype, shape, std::vector<char>(x.size() * sizeof(T))};
    if (!x.empty()) std::memcpy(made.bytes.data(), x.data(), made.bytes.size());
    return made;
}

template <typename T> void compute(const Tensors& given, const std::string& number, const char* dtype, Tensors& results) {
    auto of = [&](const std::string& name) -> const Tensor& { return given.at(number + "/" + name); };
    auto has = [&](const std::string& name) { return given.count(number + "/" + name) > 0; };
    const Tensor &query = of("input/query"), &key = of("input/key"), &value = of("input/value");
    const Tensor& cotangent = of("cotangent/output");
    std::size_t axes = query.shape.size();
    std::size_t m = query.shape[axes - 2], d = query.shape[axes - 1];
    std::size_t n = key.shape[axes - 2], p = value.shape[axes - 1], batch = 1;
    for (std::size_t axis = 0; axis + 2 < axes; ++axis) batch *= query.shape[axis];
    T scale = 1 / std::sqrt(T(d));
    if (has("input/scale")) {
        const Tensor& given_scale = of("input/scale");
        scale = T(*given_scale.as<double>());
    }

    // The mask broadcasts to (..., m, n): an axis that it lacks, or where it has size 1, does not move in it.
    const Tensor* mask = has("input/mask") ? &of("input/mask") : nullptr;
    auto seen_in = [&](std::size_t item) {
        return [&, item](std::size_t i, std::size_t j) {
            if (!mask) return true;
            std::vector<std::size_t> index(axes);
            index[axes - 1] = j, index[axes - 2] = i;
            for (std::size_t axis = axes - 2, rest = item; axis-- > 0; rest /= query.shape[axis])
                index[axis] = rest % query.shape[axis];
            std::size_t at = 0, missing = axes - mask->shape.size();
            for (std::size_t axis = missing; axis < axes; ++axis) {
                std::size_t size = mask->shape[axis - missing];
                at = at * size + (size == 1 ? 0 : index[axis]);
            }
            return mask->bytes[at] != 0;
        };
    };

    Result<T> to{std::vector<T>(batch * m * p), std::vector<T>(batch * m * d), std::vector<T>(batch * n * d),
                 std::vector<T>(batch * n * p)};
    for (std::size_t b = 0; b < batch; ++b)
        attend(query.as<T>() + b * m * d, key.as<T>() + b * n * d, value.as<T>() + b * n * p,
               cotangent.as<T>() + b * m * p, seen_in(b), scale, m, n, d, p, to.output.data() + b * m * p,
               to.query.data() + b * m * d, to.key.data() + b * n * d, to.value.data() + b * n * p);

    std::vector<std::size_t> shape = query.shape;
    shape[axes - 1] = p;
    results[number + "/output/output"] = tensor(dtype, shape, to.output);
    results[number + "/gradient/query"] = tensor(dtype, query.shape, to.query);
    results[number + "/gradient/key"] = tensor(dtype, key.shape, to.key);
    results[number + "/gradient/value"] = tensor(dtype, value.shape, to.value);
}

int main(int count, char** arguments) try {
    if (count != 3) throw std::runtime_error("usage: attention DIR DIR2");
    std::string from = arguments[1], into = arguments[2], text = content(from + "/manifest.json");
    Json manifest = Parser(text).value();
    if (manifest["format"].number() != 1) throw std::runtime_error("manifest: not format 1");
    for (const Json& file : manifest["files"].array) {
        const std::string& dtype = file["dtype"].text;
        if (file["spec"].text != "primitives/softmax_attention" || dtype == "float16") continue;
        Tensors given = read(from + "/" + file["file"].text), results;
        for (std::size_t number = 0; number < file["cases"].array.size(); ++number) {
            if (dtype == "float64") compute<double>(given, std::to_string(number), "F64", results);
            else compute<float>(given, std::to_string(number), "F32", results);
        }
        write(into + "/" + file["file"].text, results);
        std::cout << file["file"].text << ": " << file["cases"].array.size() << " cases\n";
    }
} catch (const std::exception& error) {
    std::cerr << "attention: " << error.what() << "\n";
    return 1;
}
