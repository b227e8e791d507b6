// What TensorRT asks of the library when it is loaded.
#include "add_s8.h"
#include "attentive_pool_s8.h"
#include "conv_s8.h"
#include "res2_s8.h"
#include "softmax.h"
#include "squeeze_excitation_s8.h"

#define EARMARK_EXPORT extern "C" __attribute__((visibility("default")))

EARMARK_EXPORT earmark::trt::Creator* const* getCreators(int32_t& count) {
  using namespace earmark::trt;
  static CreatorOf<ConvS8> conv;
  static CreatorOf<AddS8> add;
  static CreatorOf<Res2S8> res2;
  static CreatorOf<SqueezeExcitationS8> squeeze_excitation;
  static CreatorOf<AttentivePoolS8> attentive_pool;
  static CreatorOf<Softmax> softmax;
  static Creator* const creators[] = {&conv,           &add,    &res2, &squeeze_excitation,
                                      &attentive_pool, &softmax};
  count = sizeof creators / sizeof creators[0];
  return creators;
}

// Must be there. Its argument is of another form in each major version: left alone.
EARMARK_EXPORT void setLoggerFinder(void*) {}
