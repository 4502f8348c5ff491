# Finds Eigen, in our build and in that of a user of the installed package. Eigen 3.4 or newer is
# right, but the package of Eigen 5 refuses find_package(Eigen3 3.4): the version is compared here.
# A target Eigen3::Eigen that the project has already is taken. Sets POLARQUANT_EIGEN_PROBLEM to
# what is wrong, or to nothing.
set(POLARQUANT_EIGEN_PROBLEM)
if(NOT TARGET Eigen3::Eigen)
  set(POLARQUANT_GIVEN_EIGEN "${Eigen3_DIR}")
  find_package(Eigen3 QUIET NO_MODULE)
  if(NOT TARGET Eigen3::Eigen)
    set(POLARQUANT_EIGEN_PROBLEM
        "polarquant needs Eigen 3.4 or newer: install libeigen3-dev (Debian, Ubuntu) or eigen (Homebrew, vcpkg), or name the folder of its Eigen3Config.cmake with -DEigen3_DIR=FOLDER.")
  elseif(POLARQUANT_GIVEN_EIGEN AND NOT Eigen3_DIR STREQUAL POLARQUANT_GIVEN_EIGEN)
    # CMake goes on searching where the named folder holds none, and forgets what was named.
    set(POLARQUANT_EIGEN_PROBLEM
        "Eigen3_DIR is ${POLARQUANT_GIVEN_EIGEN}, which holds no package of Eigen; the one in ${Eigen3_DIR} was not asked for.")
    set(Eigen3_DIR "${POLARQUANT_GIVEN_EIGEN}" CACHE PATH "Eigen's package" FORCE)
  endif()
  unset(POLARQUANT_GIVEN_EIGEN)
endif()
if(NOT POLARQUANT_EIGEN_PROBLEM AND Eigen3_VERSION AND Eigen3_VERSION VERSION_LESS 3.4)
  set(POLARQUANT_EIGEN_PROBLEM
      "polarquant needs Eigen 3.4 or newer and found ${Eigen3_VERSION} in ${Eigen3_DIR}: name another with -DEigen3_DIR=FOLDER.")
endif()
