package dev.mobilebundle.lm

import android.app.ActivityManager
import android.content.Context

/** The phone's memory, in bytes. [availableBytes]: what the system could give an app now. */
data class DeviceMemory(val totalBytes: Long, val availableBytes: Long) {
    /** What the phone is sold as: the system keeps a part of its memory from apps' eyes. */
    private val gigabytes: Int get() = CLASSES.firstOrNull { totalBytes <= it * GIBIBYTE } ?: CLASSES.last()

    /** What all apps can have: Android and its services take about half of a small phone's memory. */
    val forAppsBytes: Long get() = gigabytes * GIGABYTE / 2

    private companion object {
        const val GIGABYTE = 1_000_000_000L
        const val GIBIBYTE = 1L shl 30
        val CLASSES = listOf(1, 2, 3, 4, 6, 8, 12, 16, 24)
    }
}

/** The memory of the phone that the app runs on. */
fun deviceMemory(context: Context): DeviceMemory {
    val info = ActivityManager.MemoryInfo()
    (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(info)
    return DeviceMemory(info.totalMem, info.availMem)
}

/** Whether a bundle fits: [neededBytes] is its predicted peak, [limitBytes] what this phone has for apps. */
data class MemoryFit(val verdict: Verdict, val neededBytes: Long, val limitBytes: Long, val availableBytes: Long) {
    enum class Verdict {
        FITS,

        /** It fits the phone, but not beside what runs now: the system will close other apps. */
        TIGHT,
        TOO_LARGE,
    }

    companion object {
        /**
         * [context]: tokens, null for the bundle's own. [forms]: whether requests will have an [AnswerForm], which takes some
         * megabytes.
         */
        fun of(manifest: BundleManifest, memory: DeviceMemory, context: Int? = null, forms: Boolean = false): MemoryFit {
            val needed = manifest.peakBytes(context) + if (forms) manifest.formBytes else 0
            val verdict = when {
                needed > memory.forAppsBytes -> Verdict.TOO_LARGE
                needed > memory.availableBytes -> Verdict.TIGHT
                else -> Verdict.FITS
            }
            return MemoryFit(verdict, needed, memory.forAppsBytes, memory.availableBytes)
        }

        /**
         * About the most parameters of a model that fits this phone: at [TYPICAL_BITS] bits per weight, a tenth of the
         * memory for apps left to the conversation and the program. A guide to what to look for; [of] decides.
         */
        fun largestModel(memory: DeviceMemory): Long =
            (memory.forAppsBytes * (1 - FOR_CONVERSATION) * BITS_PER_BYTE / TYPICAL_BITS).toLong()

        private const val TYPICAL_BITS = 4.5
        private const val BITS_PER_BYTE = 8
        private const val FOR_CONVERSATION = 0.1
    }
}
