#include "primitive.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/backend/cuda/cuda.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/io.h"
#include "mlx/primitives.h"

namespace {

namespace mx = mlx::core;

struct Origin {
  ollmlx_origin kind;
  size_t input;
};

ollmlx_buffer describe(mx::array& a) {
  return {a.data<char>(), a.shape().data(), a.strides().data(), a.ndim(), a.size(), mlx_dtype_to_c(a.dtype())};
}

// Walks `src` in row-major order and packs it into `dst`.
void pack(const mx::array& src, char* dst) {
  const size_t item = src.itemsize();
  const char* base = src.data<char>();
  if (src.flags().row_contiguous) {
    std::memcpy(dst, base, src.nbytes());
    return;
  }
  std::vector<int32_t> index(src.ndim(), 0);
  int64_t offset = 0;
  for (size_t done = 0; done < src.size(); ++done, dst += item) {
    std::memcpy(dst, base + offset * static_cast<int64_t>(item), item);
    for (size_t d = src.ndim(); d-- > 0;) {
      offset += src.strides()[d];
      if (++index[d] < src.shape()[d]) {
        break;
      }
      offset -= src.strides()[d] * src.shape()[d];
      index[d] = 0;
    }
  }
}

class HostKernel : public mx::Primitive {
 public:
  HostKernel(
      mx::Stream stream,
      std::string name,
      std::vector<Origin> origins,
      ollmlx_kernel kernel,
      std::shared_ptr<void> payload)
      : Primitive(stream),
        name_(std::move(name)),
        origins_(std::move(origins)),
        kernel_(kernel),
        payload_(std::move(payload)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<mx::array> in;
    std::vector<bool> taken(inputs.size(), false);
    std::vector<std::pair<size_t, size_t>> copies; // output, input
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (allocate(inputs, outputs[i], origins_[i])) {
        copies.emplace_back(i, origins_[i].input);
      }
      if (origins_[i].kind != OLLMLX_FRESH) {
        taken[origins_[i].input] = true;
      }
    }
    refuse_overlap(inputs, outputs, taken);
    for (const auto& a : inputs) {
      in.push_back(mx::array::unsafe_weak_copy(a));
    }
    std::vector<mx::array> out;
    for (const auto& a : outputs) {
      out.push_back(mx::array::unsafe_weak_copy(a));
    }
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([kernel = kernel_,
                      payload = payload_,
                      taken = std::move(taken),
                      copies = std::move(copies),
                      in = std::move(in),
                      out = std::move(out)]() mutable {
      for (auto [o, i] : copies) {
        pack(in[i], out[o].data<char>());
      }
      std::vector<ollmlx_buffer> sources, targets;
      for (size_t i = 0; i < in.size(); ++i) {
        sources.push_back(describe(in[i]));
        if (taken[i]) {
          sources.back().data = nullptr;
        }
      }
      for (auto& a : out) {
        targets.push_back(describe(a));
      }
      kernel(payload.get(), sources.data(), sources.size(), targets.data(), targets.size());
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("[" + name_ + "] is a kernel for the CPU: give it a CPU stream");
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(
      const std::vector<mx::array>&,
      const std::vector<int>&) override {
    throw std::runtime_error("[" + name_ + "] has no vmap");
  }

  std::vector<mx::array> jvp(
      const std::vector<mx::array>&,
      const std::vector<mx::array>&,
      const std::vector<int>&) override {
    throw std::runtime_error("[" + name_ + "] has no derivative");
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>&,
      const std::vector<mx::array>&,
      const std::vector<int>&,
      const std::vector<mx::array>&) override {
    throw std::runtime_error("[" + name_ + "] has no derivative");
  }

  bool is_equivalent(const Primitive&) const override {
    return false;
  }

  const char* name() const override {
    return name_.c_str();
  }

 private:
  // Gives `out` its memory; true when the contents of the input must be copied into it.
  bool allocate(const std::vector<mx::array>& inputs, mx::array& out, const Origin& origin) const {
    if (origin.kind != OLLMLX_FRESH) {
      const auto& source = inputs[origin.input];
      const bool whole = source.flags().row_contiguous && source.data_size() == source.size();
      if (origin.kind == OLLMLX_SHARED && !whole) {
        throw std::runtime_error("[" + name_ + "] can only share a row contiguous buffer");
      }
      if (whole && (origin.kind == OLLMLX_SHARED || source.is_donatable())) {
        out.copy_shared_buffer(source);
        return false;
      }
    }
    out.set_data(mx::allocator::malloc(out.nbytes()));
    return origin.kind != OLLMLX_FRESH;
  }

  // A kernel may take its inputs and outputs for disjoint memory.
  void refuse_overlap(
      const std::vector<mx::array>& inputs,
      const std::vector<mx::array>& outputs,
      const std::vector<bool>& taken) const {
    for (const auto& out : outputs) {
      for (size_t i = 0; i < inputs.size(); ++i) {
        if (!taken[i] && inputs[i].data_shared_ptr() == out.data_shared_ptr()) {
          throw std::runtime_error("[" + name_ + "] would read the buffer it writes");
        }
      }
    }
  }

  std::string name_;
  std::vector<Origin> origins_;
  ollmlx_kernel kernel_;
  std::shared_ptr<void> payload_;
};

void check_origin(const ollmlx_output& o, const std::vector<mx::array>& inputs, std::vector<bool>& taken) {
  if (o.origin == OLLMLX_FRESH) {
    return;
  }
  if (o.input >= inputs.size() || taken[o.input]) {
    throw std::invalid_argument("an output names an input that is not there or is taken already");
  }
  const auto& source = inputs[o.input];
  if (source.shape() != mx::Shape(o.shape, o.shape + o.ndim) || source.dtype() != mlx_dtype_to_cpp(o.dtype)) {
    throw std::invalid_argument("an output differs in shape or dtype from the input whose buffer it takes");
  }
  taken[o.input] = true;
}

#ifdef OLLMLX_PLAIN_ALLOCATOR
// MLX without a GPU hands out plain memory behind a header of one word that holds the size.
constexpr size_t ALLOCATOR_HEADER = sizeof(size_t);

bool allocator_is_plain() {
  static const bool plain = [] {
    auto probe = mx::allocator::malloc(16);
    bool ok = probe.raw_ptr() == static_cast<char*>(probe.ptr()) + ALLOCATOR_HEADER;
    mx::allocator::free(probe);
    return ok;
  }();
  return plain;
}
#endif

// The caller's memory as a safetensors file of one tensor: the only door of MLX's library through which bytes reach the
// memory of a CUDA device itself. Made by hand, an array would lie in managed memory and move there page by page, when a
// kernel first asks for each.
class OneTensor : public mx::io::Reader {
 public:
  OneTensor(const char* data, const mx::Shape& shape, mx::Dtype dtype, size_t nbytes, std::shared_ptr<void> keep)
      : data_(data), nbytes_(nbytes), keep_(std::move(keep)) {
    std::string dims;
    for (auto dim : shape) {
      dims += (dims.empty() ? "" : ",") + std::to_string(dim);
    }
    const std::string json = std::string("{\"t\":{\"dtype\":\"") + word(dtype) + "\",\"shape\":[" + dims +
        "],\"data_offsets\":[0," + std::to_string(nbytes) + "]}}";
    const uint64_t length = json.size();
    head_.assign(reinterpret_cast<const char*>(&length), sizeof(length));
    head_ += json;
  }

  static bool knows(mx::Dtype dtype) {
    return word(dtype) != nullptr;
  }

  bool is_open() const override {
    return true;
  }

  bool good() const override {
    return true;
  }

  size_t tell() override {
    return at_;
  }

  void seek(int64_t off, std::ios_base::seekdir way) override {
    const size_t from = way == std::ios_base::beg ? 0 : way == std::ios_base::cur ? at_ : head_.size() + nbytes_;
    at_ = from + off;
  }

  void read(char* data, size_t n) override {
    read(data, n, at_);
    at_ += n;
  }

  void read(char* data, size_t n, size_t offset) override {
    if (offset > head_.size() + nbytes_ || n > head_.size() + nbytes_ - offset) {
      throw std::runtime_error("[array_over] read past the end");
    }
    const size_t first = offset < head_.size() ? std::min(n, head_.size() - offset) : 0;
    std::memcpy(data, head_.data() + std::min(offset, head_.size()), first);
    if (n > first) {
      std::memcpy(data + first, data_ + (offset + first - head_.size()), n - first);
    }
  }

  std::string label() const override {
    return "memory";
  }

 private:
  static const char* word(mx::Dtype dtype) {
    switch (dtype.val()) {
      case mx::Dtype::Val::bool_:
        return "BOOL";
      case mx::Dtype::Val::uint8:
        return "U8";
      case mx::Dtype::Val::uint16:
        return "U16";
      case mx::Dtype::Val::uint32:
        return "U32";
      case mx::Dtype::Val::uint64:
        return "U64";
      case mx::Dtype::Val::int8:
        return "I8";
      case mx::Dtype::Val::int16:
        return "I16";
      case mx::Dtype::Val::int32:
        return "I32";
      case mx::Dtype::Val::int64:
        return "I64";
      case mx::Dtype::Val::float16:
        return "F16";
      case mx::Dtype::Val::bfloat16:
        return "BF16";
      case mx::Dtype::Val::float32:
        return "F32";
      default:
        return nullptr;
    }
  }

  std::string head_;
  const char* data_;
  size_t nbytes_;
  size_t at_ = 0;
  std::shared_ptr<void> keep_;
};

mx::array over(void* data, mx::Shape shape, mx::Dtype dtype, std::shared_ptr<void> keep) {
#ifdef OLLMLX_PLAIN_ALLOCATOR
  if (allocator_is_plain()) {
    mx::allocator::Buffer buffer(static_cast<char*>(data) - ALLOCATOR_HEADER);
    return mx::array(buffer, std::move(shape), dtype, [keep](mx::allocator::Buffer) {});
  }
#endif
  if (mx::default_device() == mx::Device::gpu && mx::cu::is_available() && OneTensor::knows(dtype)) {
    size_t nbytes = mx::size_of(dtype);
    for (auto dim : shape) {
      nbytes *= dim;
    }
    auto reader = std::make_shared<OneTensor>(static_cast<char*>(data), shape, dtype, nbytes, std::move(keep));
    return mx::load_safetensors(std::move(reader)).first.at("t");
  }
  return mx::array(data, std::move(shape), dtype, [keep](void*) {});
}

// Frees nothing: it keeps the memory's owner, which does.
struct KeepOwner {
  std::shared_ptr<mx::array::Data> owner;

  void operator()(mx::allocator::Buffer) const {}
};

mx::array sole(const mx::array& a) {
  if (a.status() == mx::array::Status::unscheduled) {
    return a;
  }
  // The owner itself, not another one that keeps it: chains would grow with every step.
  const auto& data = a.data_shared_ptr();
  const auto* kept = data->d.target<KeepOwner>();
  KeepOwner keep{kept ? kept->owner : data};
  mx::array out(a.shape(), a.dtype(), nullptr, {});
  out.set_data(data->buffer, a.data_size(), a.strides(), a.flags(), a.offset(), std::move(keep));
  out.set_status(a.status());
  out.attach_event(a.event());
  return out;
}

} // namespace

extern "C" int ollmlx_cpu_primitive(
    mlx_vector_array* res,
    const char* name,
    const mlx_vector_array inputs,
    const ollmlx_output* outputs,
    size_t outputs_num,
    ollmlx_kernel kernel,
    void* payload,
    void (*drop)(void*),
    const mlx_stream s) {
  try {
    std::shared_ptr<void> keep(payload, drop);
    const auto& in = mlx_vector_array_get_(inputs);
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    std::vector<Origin> origins;
    std::vector<bool> taken(in.size(), false);
    for (size_t i = 0; i < outputs_num; ++i) {
      const auto& o = outputs[i];
      check_origin(o, in, taken);
      shapes.emplace_back(o.shape, o.shape + o.ndim);
      dtypes.push_back(mlx_dtype_to_cpp(o.dtype));
      origins.push_back({o.origin, o.input});
    }
    auto stream = mlx_stream_get_(s);
    if (stream.device != mx::Device::cpu) {
      throw std::invalid_argument("a kernel for the CPU needs a CPU stream");
    }
    auto primitive =
        std::make_shared<HostKernel>(stream, name, std::move(origins), kernel, std::move(keep));
    mlx_vector_array_set_(*res, mx::array::make_arrays(std::move(shapes), dtypes, primitive, in));
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int ollmlx_array_over(
    mlx_array* res,
    void* data,
    const int* shape,
    size_t ndim,
    mlx_dtype dtype,
    void* payload,
    void (*drop)(void*)) {
  try {
    std::shared_ptr<void> keep(payload, drop);
    mlx_array_set_(*res, over(data, mx::Shape(shape, shape + ndim), mlx_dtype_to_cpp(dtype), std::move(keep)));
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int ollmlx_array_sole(mlx_array* res, const mlx_array a) {
  try {
    mlx_array_set_(*res, sole(mlx_array_get_(a)));
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int ollmlx_native_version(void) {
  return 1;
}
