import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "dev.mobilebundle.lm.ktx"
    compileSdk = 36
    defaultConfig.minSdk = 26
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

kotlin.compilerOptions.jvmTarget = JvmTarget.JVM_11

dependencies {
    api(project(":lm"))
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.10.2")
}
