// A function with a stack of its own, which can stop in the middle and go on later.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

#if defined(__x86_64__)
// Leaves the callee-saved registers on the stack, its place at *from, and goes on at `to`.
// swapcontext would ask the kernel for the signal mask each time.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.weak emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulation_switch, . - emulation_switch
)");
#endif

class Fiber {
 public:
  void start(std::function<void()> body) {
    body_ = std::move(body);
    finished_ = false;
    if (stack_ == nullptr) stack_.reset(new char[kStack]);
#if defined(__x86_64__)
    auto* top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack_.get()) + kStack) &
                                         ~uintptr_t{15});
    *--top = nullptr;  // where a caller's address would be: keeps the stack aligned
    *--top = reinterpret_cast<void*>(&Fiber::enter);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    inside_ = top;
#else
    getcontext(&inside_);
    inside_.uc_stack.ss_sp = stack_.get();
    inside_.uc_stack.ss_size = kStack;
    inside_.uc_link = nullptr;
    makecontext(&inside_, &Fiber::enter, 0);
#endif
  }

  // Until the body yields or returns.
  void resume() {
    running = this;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_.get(), kStack);
#endif
    change(&outside_, &inside_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  void yield() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(finished_ ? nullptr : &fake, caller_stack_, caller_size_);
#endif
    change(&inside_, &outside_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &caller_stack_, &caller_size_);
#endif
  }

  bool finished() const { return finished_; }

 private:
  static constexpr size_t kStack = 64 << 10;
  static inline Fiber* running = nullptr;

  static void enter() {
    Fiber* self = running;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self->caller_stack_, &self->caller_size_);
#endif
    self->body_();
    self->finished_ = true;
    self->yield();
  }

#if defined(__x86_64__)
  using Context = void*;
  static void change(Context* from, Context* to) { emulation_switch(from, *to); }
#else
  using Context = ucontext_t;
  static void change(Context* from, Context* to) { swapcontext(from, to); }
#endif

  std::function<void()> body_;
  std::unique_ptr<char[]> stack_;
  Context inside_{}, outside_{};
  bool finished_ = false;
#if defined(__SANITIZE_ADDRESS__)
  const void* caller_stack_ = nullptr;
  size_t caller_size_ = 0;
#endif
};

}  // namespace emulation
