# The imported target `mlx`: the library and the headers of the wheel under MLX_ROOT.
if(NOT TARGET mlx)
  if(APPLE)
    set(_mlx_library "${MLX_ROOT}/lib/libmlx.dylib")
  else()
    set(_mlx_library "${MLX_ROOT}/lib/libmlx.so")
  endif()
  add_library(mlx SHARED IMPORTED GLOBAL)
  set_target_properties(mlx PROPERTIES
    IMPORTED_LOCATION "${_mlx_library}"
    INTERFACE_COMPILE_FEATURES cxx_std_20
    INTERFACE_INCLUDE_DIRECTORIES "${MLX_ROOT}/include")
endif()
set(MLX_FOUND TRUE)
