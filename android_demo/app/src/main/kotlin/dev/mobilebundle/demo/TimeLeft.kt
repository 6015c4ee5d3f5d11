package dev.mobilebundle.demo

import kotlin.math.ceil

/**
 * How long an import or a download still takes, by how fast the last [WINDOW_SECONDS] of it went. Not jumping: nothing is said
 * before the rate is known; what is said falls minute by minute, and rises only when it was too low by a quarter or more.
 */
class TimeLeft {
    private class Sample(val seconds: Double, val bytes: Long)

    /** What is measured together. What an earlier try has copied comes at once, and says nothing of the rate. */
    private data class Stage(val name: String, val totalBytes: Long, val keptBytes: Long)

    private var stage: Stage? = null
    private val samples = ArrayDeque<Sample>()
    private var told: Int? = null

    /**
     * Minutes, rounded up: 1 is less than a minute; null: not known yet. [seconds]: by any clock that never goes back; [name]:
     * of what is done, as it begins anew with another; [keptBytes]: of [doneBytes], what was there before.
     */
    fun minutes(seconds: Double, name: String, doneBytes: Long, totalBytes: Long, keptBytes: Long = 0): Int? {
        val now = Stage(name, totalBytes, keptBytes)
        if (now != stage) {
            samples.clear()
            if (now.copy(keptBytes = 0) != stage?.copy(keptBytes = 0)) told = null
            stage = now
        }
        samples += Sample(seconds, doneBytes)
        while (samples.size > 2 && samples[1].seconds <= seconds - WINDOW_SECONDS) samples.removeFirst()
        val passed = seconds - samples.first().seconds
        val bytes = doneBytes - samples.first().bytes
        if (passed < KNOWN_AFTER_SECONDS || bytes <= 0 || totalBytes < 0) return told
        val left = (totalBytes - doneBytes).coerceAtLeast(0) * passed / bytes / SECONDS_PER_MINUTE
        if (left > MOST_MINUTES) return told
        val before = told
        if (before == null || left > before * MUCH_MORE || left < before) told = ceil(left).toInt().coerceAtLeast(1)
        return told
    }

    private companion object {
        const val WINDOW_SECONDS = 20.0
        const val KNOWN_AFTER_SECONDS = 3.0
        const val SECONDS_PER_MINUTE = 60
        const val MUCH_MORE = 1.25

        /** A day: slower than that is no time to wait for. */
        const val MOST_MINUTES = 24 * 60
    }
}
