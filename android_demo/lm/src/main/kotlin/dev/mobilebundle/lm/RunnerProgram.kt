package dev.mobilebundle.lm

import android.content.Context
import java.io.File

/**
 * The runner of this phone's ABI. Android lets an app execute only what the installer unpacked from lib/ABI of its APK, under
 * a name of the form lib*.so; hence extractNativeLibs in the manifest and the program's unusual name.
 */
fun runnerProgram(context: Context) = File(context.applicationInfo.nativeLibraryDir, "libmobile_run.so")
