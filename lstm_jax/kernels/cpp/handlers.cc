// The handlers that XLA calls: they check what they get, and run the kernel on XLA's own threads.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "backward.h"
#include "forward.h"
#include "measure.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace lstm_jax {
namespace {

using Shape = std::vector<Index>;

std::string AsText(const Shape& shape) {
  std::string text;
  for (const Index size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + ")";
}

// The buffers of a call, by place; `error` is what was wrong with the first that was not as it should be.
class Call {
 public:
  Call(const ffi::RemainingArgs& args, const ffi::RemainingRets& rets) : args_(args), rets_(rets) {}

  std::size_t num_args() const { return args_.size(); }
  std::size_t num_rets() const { return rets_.size(); }

  Shape ShapeOf(std::size_t arg) {
    const auto buffer = args_.get<ffi::AnyBuffer>(arg);
    return buffer.has_value() ? Shape(buffer->dimensions().begin(), buffer->dimensions().end()) : Shape();
  }

  template <class T = float>
  const T* Arg(std::size_t place, const char* name, const Shape& shape) {
    const auto buffer = args_.get<ffi::AnyBuffer>(place);
    return buffer.has_value() ? Data<T>(*buffer, name, shape) : Missing<T>(name);
  }

  float* Ret(std::size_t place, const char* name, const Shape& shape) {
    auto buffer = rets_.get<ffi::AnyBuffer>(place);
    if (!buffer.has_value()) return Missing<float>(name);
    float* const data = Data<float>(**buffer, name, shape);
    if (error.empty()) PreferLargePages(data, (*buffer)->size_bytes());
    return data;
  }

  void Refuse(const std::string& why) {
    if (error.empty()) error = why;
  }

  std::string error;

 private:
  template <class T>
  T* Data(const ffi::AnyBuffer& buffer, const char* name, const Shape& shape) {
    constexpr ffi::DataType dtype =
        std::is_same_v<T, float> ? ffi::F32 : std::is_same_v<T, bool> ? ffi::PRED : ffi::S32;
    const Shape got(buffer.dimensions().begin(), buffer.dimensions().end());
    if (buffer.element_type() != dtype) {
      Refuse(std::string(name) + ": expected " +
             (dtype == ffi::F32 ? "float32" : dtype == ffi::PRED ? "booleans" : "int32"));
    } else if (got != shape) {
      Refuse(std::string(name) + ": got shape " + AsText(got) + ", expected " + AsText(shape));
    }
    return static_cast<T*>(buffer.untyped_data());
  }

  template <class T>
  T* Missing(const char* name) {
    Refuse(std::string(name) + " is missing");
    return nullptr;
  }

  const ffi::RemainingArgs& args_;
  const ffi::RemainingRets& rets_;
};

// Sizes from x (members, T, B, D) and h0 (members, B, H).
Sizes ReadSizes(Call& call, Index groups) {
  const Shape x = call.ShapeOf(0), h = call.ShapeOf(2);
  if (x.size() != 4 || h.size() != 3) {
    call.Refuse("got x " + AsText(x) + " and h0 " + AsText(h) + ", expected (members, T, B, D) and (members, B, H)");
    return {1, 1, 1, 1, 1};
  }
  const Sizes s{x[0], x[1], x[2], x[3], h[2], groups};
  if (std::min({s.members, s.time, s.batch, s.inputs, s.hidden, groups}) < 1) {
    call.Refuse("got x " + AsText(x) + " and h0 " + AsText(h) + ", expected sizes of at least 1");
    return {1, 1, 1, 1, 1};
  }
  if (s.batch % groups != 0) {
    call.Refuse("got " + std::to_string(groups) + " groups, expected a divisor of B = " + std::to_string(s.batch));
  }
  return s;
}

const std::int32_t* ReadLast(Call& call, const Sizes& s) {
  const auto* last = call.Arg<std::int32_t>(3, "last", {s.members, s.batch});
  for (Index i = 0; call.error.empty() && i < s.members * s.batch; ++i) {
    if (last[i] < 0 || last[i] >= s.time) {
      call.Refuse("last: got " + std::to_string(last[i]) + ", expected a step from 0 to " + std::to_string(s.time - 1));
    }
  }
  return last;
}

// Kernels of x, kernels of h and, if there are any, biases, of the gates i, f, g, o, from `place` on.
Weights<const float> ReadWeights(Call& call, const Sizes& s, std::size_t place, bool biases) {
  Weights<const float> weights{};
  for (int g = 0; g < kGates; ++g) {
    weights.x[g] = call.Arg(place + g, "kernel of x", {s.members, s.inputs, s.hidden});
    weights.h[g] = call.Arg(place + kGates + g, "kernel of h", {s.members, s.hidden, s.hidden});
    if (biases) weights.bias[g] = call.Arg(place + 2 * kGates + g, "bias", {s.members, s.hidden});
  }
  return weights;
}

template <class Run>
ffi::Error Finish(const char* name, const Call& call, const Run& run) {
  if (!call.error.empty()) {
    return ffi::Error::InvalidArgument(std::string("lstm_jax ") + name + ": " + call.error);
  }
  try {
    run();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, std::string("lstm_jax ") + name + ": out of memory");
  }
  return ffi::Error::Success();
}

// XLA's threads, as many as a call may use.
struct XlaPool {
  XlaPool(ffi::ThreadPool pool, Index most)
      : any{[pool](std::function<void()> task) mutable { pool.Schedule(std::move(task)); }},
        threads(std::min<Index>(pool.num_threads(), most)) {}
  AnyPool any;
  Index threads;
};

// Where new sequences begin, and the state that each begins with, from `place` on.
Resets ReadResets(Call& call, const Sizes& s, std::size_t place) {
  const Shape state{s.members, s.batch, s.hidden};
  return {call.Arg<bool>(place, "resets", {s.members, s.time, s.batch, 1}), call.Arg(place + 1, "c_reset", state),
          call.Arg(place + 2, "h_reset", state)};
}

// (x, c0, h0, last, 12 weights [, mask if `masked`] [, resets, c_reset, h_reset if `with_resets`])
// -> (c_last, h_last [, outputs [, cells, gates]])
ffi::Error RunForward(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets, bool bfloat16,
                      Index products, Index most_threads, bool masked, bool with_resets) {
  Call call(args, rets);
  const Sizes s = ReadSizes(call, 1);
  const Shape state{s.members, s.batch, s.hidden};
  ForwardArgs in{call.Arg(0, "x", {s.members, s.time, s.batch, s.inputs}), call.Arg(1, "c0", state),
                 call.Arg(2, "h0", state), ReadLast(call, s), ReadWeights(call, s, 4, true)};
  if (masked) in.mask = call.Arg(16, "mask", state);
  if (with_resets) in.resets = ReadResets(call, s, masked ? 17 : 16);
  in.bfloat16 = bfloat16;
  in.products = Products{products};
  ForwardResults out{call.Ret(0, "c_last", state), call.Ret(1, "h_last", state)};
  if (call.num_rets() > 2) out.outputs = call.Ret(2, "outputs", {s.members, s.time, s.batch, s.hidden});
  if (call.num_rets() > 3) {
    out.cells = call.Ret(3, "cells", {s.members, s.time, s.batch, s.padded()});
    out.gates = call.Ret(4, "gates", {s.members, s.time, s.batch, kGates * s.padded()});
  }
  XlaPool pool(threads, most_threads);
  return Finish("forward", call, [&] { Forward(pool.any, pool.threads, s, in, out); });
}

// (x, c0, h0, last, outputs, cells, gates, dc_last, dh_last, 8 kernels [, mask if `masked`]
// [, resets, c_reset, h_reset if `with_resets`] [, d_outputs])
// -> (dc0, dh0, 12 gradients of weights [, dx] [, dc_reset, dh_reset if `with_resets`])
ffi::Error RunBackward(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets, Index groups,
                       bool bfloat16, Index products, Index most_threads, bool masked, bool with_resets) {
  Call call(args, rets);
  const Sizes s = ReadSizes(call, groups);
  const Shape state{s.members, s.batch, s.hidden};
  const Shape x{s.members, s.time, s.batch, s.inputs}, h{s.members, s.time, s.batch, s.hidden};
  BackwardArgs in{};
  in.x = call.Arg(0, "x", x);
  in.c0 = call.Arg(1, "c0", state);
  in.h0 = call.Arg(2, "h0", state);
  in.last = ReadLast(call, s);
  in.outputs = call.Arg(4, "outputs", h);
  in.cells = call.Arg(5, "cells", {s.members, s.time, s.batch, s.padded()});
  in.gates = call.Arg(6, "gates", {s.members, s.time, s.batch, kGates * s.padded()});
  in.dc_last = call.Arg(7, "dc_last", state);
  in.dh_last = call.Arg(8, "dh_last", state);
  in.weights = ReadWeights(call, s, 9, false);
  std::size_t rest = 17;
  if (masked) in.mask = call.Arg(rest++, "mask", state);
  if (with_resets) {
    in.resets = ReadResets(call, s, rest);
    rest += 3;
  }
  if (call.num_args() > rest) in.d_outputs = call.Arg(rest, "d_outputs", h);
  in.bfloat16 = bfloat16;
  in.products = Products{products};
  BackwardResults out{};
  out.dc0 = call.Ret(0, "dc0", state);
  out.dh0 = call.Ret(1, "dh0", state);
  for (int g = 0; g < kGates; ++g) {
    out.weights.x[g] = call.Ret(2 + g, "gradient of a kernel of x", {s.members, groups, s.inputs, s.hidden});
    out.weights.h[g] = call.Ret(6 + g, "gradient of a kernel of h", {s.members, groups, s.hidden, s.hidden});
    out.weights.bias[g] = call.Ret(10 + g, "gradient of a bias", {s.members, groups, s.hidden});
  }
  std::size_t other = 14;
  if (call.num_rets() > other + (with_resets ? 2 : 0)) out.dx = call.Ret(other++, "dx", x);
  if (with_resets) {
    out.dc_reset = call.Ret(other, "dc_reset", state);
    out.dh_reset = call.Ret(other + 1, "dh_reset", state);
  }
  XlaPool pool(threads, most_threads);
  return Finish("backward", call, [&] { Backward(pool.any, pool.threads, s, in, out); });
}

}  // namespace
}  // namespace lstm_jax

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_forward, lstm_jax::RunForward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("bfloat16")
                                  .Attr<std::int64_t>("products")
                                  .Attr<std::int64_t>("most_threads")
                                  .Attr<bool>("masked")
                                  .Attr<bool>("with_resets"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    lstm_jax_backward, lstm_jax::RunBackward,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .RemainingArgs()
        .RemainingRets()
        .Attr<std::int64_t>("groups")
        .Attr<bool>("bfloat16")
        .Attr<std::int64_t>("products")
        .Attr<std::int64_t>("most_threads")
        .Attr<bool>("masked")
        .Attr<bool>("with_resets"));

// What Python asks about the kinds of products (products.py). Sizes are members, T, B, D, H.

namespace {
[[maybe_unused]] lstm_jax::Sizes SizesOf(const std::int64_t* five) {
  return {five[0], five[1], five[2], five[3], five[4]};
}
}  // namespace

// Whether tiles are the usual kind for these sizes; below zero if there are none here.
extern "C" int lstm_jax_tiles_are_usual([[maybe_unused]] const std::int64_t* sizes,
                                        [[maybe_unused]] std::int64_t threads) {
#ifdef LSTM_JAX_TILES
  if (lstm_jax::amx::Available()) return lstm_jax::TilesAreUsual(SizesOf(sizes), threads);
#endif
  return -1;
}

// See `TilesToVectors`; below zero if there is not enough memory.
extern "C" std::int64_t lstm_jax_tiles_to_vectors(const std::int64_t* sizes, std::int64_t threads, int bfloat16,
                                                  double seconds, std::int64_t most, double* ratios) try {
  return lstm_jax::TilesToVectors(SizesOf(sizes), threads, bfloat16 != 0, seconds, most, ratios);
} catch (...) {  // nothing may leave C++ for Python
  return -1;
}
